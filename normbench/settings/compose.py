"""From a command line to checked cells: the one file that composes with Hydra.

Composing costs 50 ms, so it is done once per choice of parts; values are then put into copies.
Every mistake of a command line, also those inside the lists of a sweep, is collected and reported
at once, before Hydra starts a job and without importing torch.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from normbench.errors import Mistake, PartError, Refused
from normbench.parts import registry
from normbench.parts.options import leaves, nearest, written
from normbench.runtime import storage
from normbench.settings import resolve, rules, schema
from normbench.settings.schema import Config

if TYPE_CHECKING:
    from normbench.data._base import DatasetInfo

RESOLVER = re.compile(r"\$\{[^}]*:")  # such as ${oc.env:HOME}: reads what is no setting
ALL_SETTINGS = "(all settings: normbench train --help)"
EXTRAS = {
    "joblib": "joblib",
    "ray": "ray",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
}
HERE = ("normbench", "basic", "joblib", "ray", "submitit_local")  # launchers that stay on a machine


@dataclass(frozen=True)
class Cell:
    """One combination of a sweep: its overrides, and its config or why it does not apply."""

    row: tuple[str, ...]
    config: Config | None
    misfits: tuple[Mistake, ...] = ()


def loader(extra: str | None = None) -> ConfigLoaderImpl:
    """Return Hydra's config loader on the packaged configs, `extra` (a directory) before them."""
    setup_globals()
    path = create_config_search_path(str(registry.configs()))
    if extra:
        query = SearchPathQuery(provider="schema", path=None)
        path.prepend("command-line", f"file://{Path(extra).absolute()}", query)
    return ConfigLoaderImpl(path)


class Grid:
    """Reads overrides and composes the cells that they describe."""

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self.loader, self.parser = loader, OverridesParser.create(loader)
        self.groups = [group for group in loader.list_groups("") if group != "hydra"]
        self.base = cache(self._base)
        self.about = cache(self._about)
        self.here = True  # whether the runs will be on this machine
        self.keys: list[str] = []  # of the overrides, in their order
        self.refused: set[str] = set()  # groups for which a name was refused
        self.mistakes: dict[Mistake, None] = {}  # each said once

    def cells(self, overrides: Sequence[str], multirun: bool) -> list[Cell]:
        """Return every cell, in the order of the command line.

        Raises: Refused with all mistakes; FileRefused if the data is not here.
        """
        self.keys = [text.partition("=")[0] for text in overrides]
        self._given_twice(self.keys)
        choices = [found for text in overrides if (found := self._read(text, multirun))]
        self._check_count(math.prod(len(each) for each in choices), choices)
        # What was refused is left out, so that one look finds the other mistakes as well.
        cells = [self.cell(row) for row in itertools.product(*choices)]
        misfits = [mistake for cell in cells for mistake in cell.misfits]
        self._check_tuning(cells)
        self._check_orders(cells, overrides)
        skip = all(cell.config is None or cell.config.skip_invalid for cell in cells)
        if misfits and not (multirun and skip and any(cell.config for cell in cells)):
            self.mistakes.update(dict.fromkeys(misfits))
        self._stop()
        return cells

    def part(self, group: str, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the checked options of one part, chosen and set as for a training.

        Raises: Refused with all mistakes, such as settings of anything else.
        """
        self.keys = [text.partition("=")[0] for text in overrides]
        self._given_twice(self.keys)
        row = []
        for text in overrides:
            if text.partition("=")[0].partition(".")[0] != group:
                self._say(text, f"is no option of {group}", f"{group}.OPTION=VALUE")
            else:
                row += self._read(text, multirun=False)
        tree = self._tree(tuple(row))
        self.mistakes.update(dict.fromkeys(resolve.check_values(tree)))
        self._stop()
        options: dict[str, Any] = tree[group]
        return options

    def cell(self, row: Sequence[str]) -> Cell:
        """Compose and check one combination of `KEY=VALUE` texts."""
        tree = self._tree(tuple(row))
        wrong = resolve.check_values(tree)
        if wrong:
            self.mistakes.update(dict.fromkeys(wrong))
            return Cell(tuple(row), None)
        try:
            about = self.about(json.dumps(tree["data"]))
        except PartError as error:
            self.mistakes.update(dict.fromkeys(error.mistakes))
            return Cell(tuple(row), None)
        misfits = rules.contradictions(tree, about)
        misfits += self._both_lengths(row)
        if tree["device"] == "auto" and not self.here:
            why = "what there is cannot be known here, the runs are on other machines"
            misfits.append(Mistake("device=auto", why, "device=cuda or device=cpu"))
        if misfits:
            return Cell(tuple(row), None, tuple(misfits))
        return Cell(tuple(row), resolve.resolve(tree, about, self.here))

    def _read(self, text: str, multirun: bool) -> list[str]:
        """Return the `KEY=VALUE` texts that one override stands for, none if it is refused."""
        if mistake := too_deep(text):
            self.mistakes[mistake] = None
            return []
        try:
            (override,) = self.parser.parse_overrides([text])
        except HydraException:
            fix = "batch=2    (a value with special characters needs quotes: data.path='a (1)')"
            self._say(text, "cannot be read as KEY=VALUE", fix)
            return []
        key = override.key_or_group
        if override.type.name != "CHANGE" or "@" in text.partition("=")[0] or override.package:
            self._say(text, "no setting can be added, deleted or moved", f"{key}=VALUE")
            return []
        if key.startswith("hydra"):
            return self._hydra(text, key, override)
        if RESOLVER.search(text):
            self._say(text, "resolvers are not allowed in settings", f"{key}=VALUE")
            return []
        texts = [str(override.input_line)]
        if override.is_sweep_override():
            texts = [f"{key}={each}" for each in override.sweep_string_iterator()]
        if override.is_sweep_override() and not multirun:
            self._say(text, "is a list: several runs", f"normbench train -m {text}")
            return []
        if not texts:
            self._say(text, "is an empty list", "seed=range(0,3)")
        checked = self._known_choice if key in self.groups else self._known_key
        return [each for each in texts if checked(key, each)]

    def _known_choice(self, key: str, text: str) -> bool:
        name = text.partition("=")[2].strip("'\"")
        known = {*self.loader.get_group_options(key), *registry.names(key)}
        if name in known:
            return True
        near = _alias(key, name) or nearest(name, sorted(known))
        plural = registry.KINDS[key][0]
        self._say(
            text,
            f"no {key if key != 'data' else 'data set'} has this name",
            f"{key}={near}    (all names: normbench list {plural})",
        )
        self.refused.add(key)
        return False

    def _known_key(self, key: str, text: str) -> bool:
        group, _, rest = key.partition(".")
        if rest == "name" and group in self.groups:
            self._say(
                text, f"the {group} is chosen by {group}=NAME", f"{group}=" + text.partition("=")[2]
            )
            return False
        if group in self.groups and rest:
            return True  # whether the part has this option is known once it is composed
        if key in schema.defaults():
            return True
        self._unknown_key(text, list(schema.defaults()) + self.groups)
        return False

    def _hydra(self, text: str, key: str, override: Override) -> list[str]:
        if "/" in key:
            name = str(override.value())
            group = key.partition("/")[2]
            if name not in self.loader.get_group_options(key):
                extra = EXTRAS.get(name)
                fix = f"pip install 'normbench[{extra}]'" if extra else f"hydra/{group}=normbench"
                self._say(text, f"no {group} of this name is installed", fix)
            elif group == "launcher":
                self.here = name in HERE
        return []  # Hydra's own settings are Hydra's to check

    def _given_twice(self, keys: list[str]) -> None:
        for key in sorted({key for key in keys if keys.count(key) > 1}):
            self._say(key, "is given twice", f"{key}=VALUE once, or {key}=A,B with -m for a sweep")

    def _check_count(self, count: int, choices: list[list[str]]) -> None:
        given = {row[0].partition("=")[0]: row[0].partition("=")[2] for row in choices if row}
        limit = given.get("max_cells", str(schema.defaults()["max_cells"]))
        if limit.isdigit() and count > int(limit):
            self._say(f"max_cells={limit}", f"this sweep has {count:,} cells", f"max_cells={count}")
            self._stop()

    def _check_orders(self, cells: list[Cell], overrides: Sequence[str]) -> None:
        """Refuse a setting of an order that no cell has."""
        found = {cell.config.order: None for cell in cells if cell.config}
        for text in overrides:
            order = schema.OWNERS.get(text.partition("=")[0])
            if order and order not in found and all(cell.config for cell in cells):
                why = f"order={','.join(found)} has no such setting"
                self._say(text, why, f"order={order} {text}")

    def _check_tuning(self, cells: list[Cell]) -> None:
        """Refuse learning rates that no run would have, since the tuning chooses others."""
        found = [cell.config for cell in cells if cell.config]
        tuned = [each for each in found if each.tune == "lr"]
        lrs = sorted({each.optimizer["lr"] for each in tuned})
        if "optimizer.lr" not in self.keys or not tuned:
            return
        why = "tune=lr chooses it, for each configuration"
        if len(lrs) > 1:
            self._say(f"optimizer.lr={','.join(map(str, lrs))}", why, f"tune_lrs={written(lrs)}")
        elif len(tuned) == len(found) and "tune_lrs" in self.keys:
            fix = f"tune_lrs={written(tuned[0].tune_lrs)} alone"
            self._say(f"optimizer.lr={lrs[0]:g}", why, fix)

    def _tree(self, row: tuple[str, ...]) -> dict[str, Any]:
        """The composed values of one combination; an unknown option is a mistake and left out."""
        chosen = tuple(text for text in row if text.partition("=")[0] in self.groups)
        tree = copy.deepcopy(self.base(chosen))
        known = dict(leaves(tree))
        for text in row:
            key = text.partition("=")[0]
            if text in chosen:
                continue
            if key in known:
                resolve.put(tree, key, self.parser.parse_override(text).value())
            else:
                self._unknown_option(text, key, tree)
        return self._resolved(tree)

    def _base(self, chosen: tuple[str, ...]) -> dict[str, Any]:
        self._store_foreign(chosen)
        with composing(chosen):
            composed = self.loader.load_configuration("train", list(chosen), RunMode.RUN)
        tree = OmegaConf.to_container(composed, resolve=False)
        assert isinstance(tree, dict)
        tree.pop("hydra", None)
        self._check_files(tree)
        return {str(key): value for key, value in tree.items()}

    def _check_files(self, tree: dict[Any, Any]) -> None:
        """Check and complete what a user's own configuration files say.

        Raises: Refused, since nothing can be composed from wrong files.
        """
        wrong = [each for group in registry.KINDS for each in self._wrong_in_group(tree, group)]
        own = dict(leaves({key: tree[key] for key in tree if key not in registry.KINDS}))
        for key in own.keys() - schema.defaults().keys():
            near = nearest(key, schema.defaults())
            wrong.append(Mistake(f"{key}={own[key]}", "no setting has this name", f"{near}: VALUE"))
        if wrong:
            raise Refused(*self.mistakes, *wrong)

    def _wrong_in_group(self, tree: dict[Any, Any], group: str) -> Iterator[Mistake]:
        part = tree.get(group)
        name = str(part.get("name")) if isinstance(part, dict) else "null"
        known = registry.names(group)
        if not all(each in known for each in name.split("+")):
            near = nearest(name, known)
            yield Mistake(f"{group}.name={name}", f"no {group} has this name", f"name: {near}")
            return
        options, given = schema.declared_options(group, name), dict(leaves(tree[group]))
        for key in given.keys() - options.keys() - {"name"}:
            fix = f"{nearest(key, options)}: VALUE" if options else f"no options, {name} has none"
            yield Mistake(f"{group}.{key}={given[key]}", f"{name} has no such option", fix)
        for key in options.keys() - given.keys():
            resolve.put(tree[group], key, options[key].default)

    def _resolved(self, tree: dict[str, Any]) -> dict[str, Any]:
        """The tree with its references to other settings replaced by their values."""
        texts = [(k, v) for k, v in leaves(tree) if isinstance(v, str) and "${" in v]
        for key, value in texts:
            why = "resolvers are not allowed in settings" if RESOLVER.search(value) else ""
            why = "is nested too deep" if storage.nesting(value) > storage.DEPTH else why
            if why:
                raise Refused(*self.mistakes, Mistake(f"{key}={value}", why, f"{key}=VALUE"))
        if not texts:
            return tree
        try:
            resolved = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
        except OmegaConfBaseException as error:
            key, value = texts[-1]
            why = str(error).splitlines()[0]
            raise Refused(Mistake(f"{key}={value}", why, f"{key}=VALUE")) from None
        return {str(key): value for key, value in resolved.items()}  # type: ignore[union-attr]

    def _about(self, data: str) -> DatasetInfo:
        return schema.data_about({"data": json.loads(data)})

    def _both_lengths(self, row: Sequence[str]) -> list[Mistake]:
        given = dict(text.split("=", 1) for text in row)
        lengths = [k for k in ("steps", "examples", "epochs") if given.get(k, "null") != "null"]
        if len(lengths) < 2:
            return []
        kept, *others = (f"{key}={given[key]}" for key in lengths)
        why = f"the length is given twice, {kept} says it too"
        return [Mistake(each, why, f"{kept} alone") for each in others]

    def _store_foreign(self, chosen: tuple[str, ...]) -> None:
        """Let Hydra compose a part of another package from the fields of its class."""
        from hydra.core.config_store import ConfigStore

        for text in chosen:
            group, _, name = text.partition("=")
            if name in registry.names(group) and name not in self.loader.get_group_options(group):
                options = registry.facts(group, name).options
                node = {"name": name, **{key: each.default for key, each in options.items()}}
                ConfigStore.instance().store(name=name, node=node, group=group)

    def _unknown_option(self, text: str, key: str, tree: dict[str, Any]) -> None:
        group, _, rest = key.partition(".")
        if group in self.refused:
            return
        name, options = (
            tree[group]["name"],
            [k for k, _ in leaves(tree[group]) if k != "name"],
        )
        why = f"{group}={name} has no such option"
        owners = [
            other for other in registry.names(group) if rest in registry.facts(group, other).options
        ]
        if owners:
            fix = f"{group}={min(owners, key=len)} {text}"
        elif options:
            fix = f"{group}.{nearest(rest, options)}={text.partition('=')[2]}"
        else:
            fix = f"{group}={name}, which has no options"
        self._say(text, why, fix)

    def _unknown_key(self, text: str, known: Sequence[str]) -> None:
        key, _, value = text.partition("=")
        usual = [key for key, _ in leaves(self.base(())) if "." in key]
        shown = [*known, *usual, *_options_everywhere()]
        near = max(
            shown, key=lambda each: max(_like(key, each), _like(key, each.rpartition(".")[2]))
        )
        self._say(text, "no setting has this name", f"{near}={value}    {ALL_SETTINGS}")

    def _say(self, subject: str, why: str, fix: str) -> None:
        self.mistakes[Mistake(subject, why, fix)] = None

    def _stop(self) -> None:
        if self.mistakes:
            raise Refused(*sorted(self.mistakes, key=self._place))

    def _place(self, mistake: Mistake) -> int:
        """Where on the command line the setting stands that a mistake is about."""
        key = mistake.subject.partition("=")[0]
        return self.keys.index(key) if key in self.keys else len(self.keys)


@contextmanager
def composing(overrides: Sequence[str]) -> Iterator[None]:
    """Let Hydra compose; raise Refused, with the file, where a user's own file is not readable."""
    from yaml import MarkedYAMLError, YAMLError

    try:
        yield
    except RecursionError:
        why = "is nested too deep"
    except (HydraException, OmegaConfBaseException) as error:
        why = str(error).splitlines()[0]
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{mark.name} line {mark.line + 1}" if mark else "a file"
        why = f"{where} is not YAML: {error.problem}"
    except (YAMLError, ValueError) as error:
        why = f"a file is not YAML: {str(error).splitlines()[0]}"
    else:
        return
    subject = " ".join(overrides) or "train.yaml"
    raise Refused(Mistake(subject, why, "normbench train --cfg job    (without --config-dir)"))


def too_deep(text: str) -> Mistake | None:
    """Say what is wrong with an override whose brackets nest deeper than a parser can follow."""
    if storage.nesting(text) <= storage.DEPTH:
        return None
    fix = f"batch=2    (brackets in a value: at most {storage.DEPTH} deep)"
    return Mistake(text, "is nested too deep", fix)


def _like(word: str, other: str) -> float:
    from difflib import SequenceMatcher

    return SequenceMatcher(None, word, other).ratio()


@cache
def _options_everywhere() -> tuple[str, ...]:
    found: dict[str, None] = {}
    for group in registry.KINDS:
        for name in registry.names(group):
            found.update(
                dict.fromkeys(f"{group}.{key}" for key in registry.facts(group, name).options)
            )
    return tuple(found)


def _alias(group: str, name: str) -> str | None:
    """The part that is also called `name`."""
    for known in registry.names(group):
        if name in registry.facts(group, known).constants.get("aliases", ()):
            return known
    return None


def composed(tree: dict[str, Any]) -> Cell:
    """Check a configuration that Hydra composed for a job of another launcher."""
    mistakes = resolve.check_values(tree)
    if mistakes:
        raise Refused(*mistakes)
    about = schema.data_about(tree)
    misfits = rules.contradictions(tree, about)
    if misfits:
        raise Refused(*misfits)
    return Cell((), resolve.resolve(tree, about))
