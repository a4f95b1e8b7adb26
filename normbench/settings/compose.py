"""From a command line to checked cells: the one file that composes with Hydra.

Composing costs 50 ms, so it is done once per choice of parts; values are then put into copies.
Every mistake of a command line, also those inside the lists of a sweep, is collected and reported
at once, before Hydra starts a job and without importing torch.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
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
from normbench.settings.declared import AUTO, declared_options, default_part, defaults
from normbench.settings.overrides import MOST, RESOLVER, Overrides, current, key_of
from normbench.settings.schema import WORDS, Config


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
    """Composes and checks the cells that the overrides of a command line describe."""

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self.loader, self.read = loader, Overrides(loader)
        self.base, self.value = cache(self._base), cache(self.read.value)
        self.about = cache(lambda data: schema.data_about({"data": json.loads(data)}))
        self.idle: dict[str, dict[str, None]] = {}  # by option: parts that do not have it
        self.used: set[str] = set()  # options that the part of some cell has

    def cells(self, overrides: Sequence[str], multirun: bool) -> list[Cell]:
        """Return every cell, in the order of the command line.

        Raises: Refused with all mistakes; FileRefused if the data is not here.
        """
        texts = [current(text) for text in overrides]
        self.read.given(texts)
        choices = [found for text in texts if (found := self.read.read(text, multirun))]
        self._check_count(math.prod(len(texts) for texts in choices), choices)
        # What was refused is left out, so that one look finds the other mistakes as well.
        cells = [self.cell(row) for row in itertools.product(*choices)]
        self._check_runs(cells)
        misfits = [mistake for cell in cells for mistake in cell.misfits]
        self._check_tuning(cells)
        for text, names in self.idle.items():
            if key_of(text) not in self.used:
                self.read.unknown_option(text, *names)
        skip = all(cell.config is None or cell.config.skip_invalid for cell in cells)
        if misfits and not (multirun and skip and any(cell.config for cell in cells)):
            self.read.mistakes.update(dict.fromkeys(misfits))
        self.read.stop()
        return cells

    def part(self, group: str, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the checked options of one part, chosen and set as for a training.

        Raises: Refused with all mistakes, such as settings of anything else.
        """
        self.read.given(overrides)
        row = []
        for text in overrides:
            if key_of(text).partition(".")[0] != group:
                self.read.say(text, f"is not an option of {group}", f"{group}.OPTION=VALUE")
            else:
                row += self.read.read(text, multirun=False)
        tree = self.checked(row)
        self.read.stop()
        options: dict[str, Any] = tree[group]
        return options

    def checked(self, row: Sequence[str]) -> dict[str, Any]:
        """Compose one combination and check its values; mistakes are noted."""
        tree = self._tree(tuple(row))
        self.read.mistakes.update(dict.fromkeys(resolve.check_values(tree)))
        return tree

    def cell(self, row: Sequence[str]) -> Cell:
        """Compose and check one combination of `KEY=VALUE` texts."""
        tree = self._tree(tuple(row))
        wrong = resolve.check_values(tree)
        if wrong:
            self.read.mistakes.update(dict.fromkeys(wrong))
            return Cell(tuple(row), None)
        try:
            about = self.about(json.dumps(tree["data"]))
        except PartError as error:
            self.read.mistakes.update(dict.fromkeys(error.mistakes))
            return Cell(tuple(row), None)
        misfits = rules.contradictions(tree, about)
        misfits += rules.both_lengths(dict(text.split("=", 1) for text in row))
        if tree["device"] == "auto" and not self.read.here:
            why = "what there is cannot be known here, the runs are on other machines"
            misfits.append(Mistake("device=auto", why, "device=cuda or device=cpu"))
        if misfits:
            return Cell(tuple(row), None, tuple(misfits))
        return Cell(tuple(row), resolve.resolve(tree, about, self.read.here))

    def _check_count(self, count: int, choices: list[list[str]]) -> None:
        given = dict(row[0].split("=", 1) for row in choices)
        limit = given.get("max_cells", str(defaults()["max_cells"]))
        if limit.isdigit() and count > int(limit):
            fix = f"max_cells={count}"
            if count > MOST:
                fix = f"shorter lists: at most {MOST:,} cells with max_cells={MOST}"
            self.read.say(f"max_cells={limit}", f"this sweep has {count:,} cells", fix)
            self.read.stop()

    def _check_runs(self, cells: list[Cell]) -> None:
        seeds = [cell.config.seeds for cell in cells if cell.config]
        if sum(seeds) > MOST:
            why = f"this sweep has {sum(seeds):,} runs, and a sweep at most {MOST:,}"
            self.read.say(f"seeds={max(seeds)}", why, f"seeds={MOST // len(seeds)}")
            self.read.stop()

    def _check_tuning(self, cells: list[Cell]) -> None:
        """Refuse too large a tuning, and learning rates of which it would choose others."""
        found = [cell.config for cell in cells if cell.config]
        tuned = [config for config in found if config.tune == "lr"]
        rates = {config.name: (len(config.tune_lrs or ()), config.tune_seeds) for config in tuned}
        count, runs = sum(n for n, _ in rates.values()), sum(n * k for n, k in rates.values())
        if runs > MOST:
            why = f"the tuning has {runs:,} runs, and a sweep at most {MOST:,}"
            fix = f"tune_seeds={MOST // count}" if count <= MOST else "shorter lists"
            self.read.say(f"tune_seeds={tuned[0].tune_seeds}", why, fix)
            self.read.stop()
        lrs = sorted({config.optimizer["lr"] for config in tuned})
        if "optimizer.lr" not in self.read.keys or not tuned:
            return
        why = "tune=lr chooses it, for each configuration"
        if len(lrs) > 1:
            subject = f"optimizer.lr={','.join(map(str, lrs))}"
            self.read.say(subject, why, f"tune_lrs={written(lrs)}")
        elif len(tuned) == len(found) and "tune_lrs" in self.read.keys:
            fix = f"tune_lrs={written(tuned[0].tune_lrs)} alone"
            self.read.say(f"optimizer.lr={lrs[0]:g}", why, fix)

    def _tree(self, row: tuple[str, ...]) -> dict[str, Any]:
        """Compose one combination; an unknown option is a mistake and left out."""
        chosen = tuple(text for text in row if key_of(text) in self.read.groups)
        tree = resolve.copied(self.base(chosen))
        known = dict(leaves(tree))
        for text in row:
            key = key_of(text)
            if text in chosen:
                continue
            group = key.partition(".")[0]
            if key in known:
                self.used.add(key)
                resolve.put(tree, key, resolve.copied(self.value(text)))
            elif group in WORDS:
                # Cells of other orders ignore it, as when it was a setting of its own.
                self.idle.setdefault(text, {})[tree[group]["name"]] = None
            else:
                self.read.unknown_option(text, tree[group]["name"])
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
        wrong = [found for group in registry.KINDS for found in _wrong_in_group(tree, group)]
        own = dict(leaves({key: tree[key] for key in tree if key not in registry.KINDS}))
        for key in own.keys() - defaults().keys():
            near = nearest(key, defaults())
            wrong.append(Mistake(f"{key}={own[key]}", "no setting has this name", f"{near}: VALUE"))
        if wrong:
            raise Refused(*self.read.mistakes, *wrong)

    def _resolved(self, tree: dict[str, Any]) -> dict[str, Any]:
        """Replace references to other settings by their values."""
        texts = [(k, v) for k, v in leaves(tree) if isinstance(v, str) and "${" in v]
        for key, value in texts:
            why = "resolvers are not allowed in settings" if RESOLVER.search(value) else ""
            why = "is nested too deep" if storage.nesting(value) > storage.DEPTH else why
            if why:
                raise Refused(*self.read.mistakes, Mistake(f"{key}={value}", why, f"{key}=VALUE"))
        known = dict(leaves(tree))
        plain = [known.get(value[2:-1], value) for _, value in texts]
        if all("${" not in str(value) for value in plain):  # names of other settings, no more
            for (key, _), value in zip(texts, plain, strict=True):
                resolve.put(tree, key, resolve.copied(value))
            return tree
        try:
            resolved = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
        except OmegaConfBaseException as error:
            key, value = texts[-1]
            why = str(error).splitlines()[0]
            raise Refused(Mistake(f"{key}={value}", why, f"{key}=VALUE")) from None
        return {str(key): value for key, value in resolved.items()}  # type: ignore[union-attr]

    def _store_foreign(self, chosen: tuple[str, ...]) -> None:
        """Let Hydra compose a part of another package from the fields of its class."""
        for text in chosen:
            group, _, name = text.partition("=")
            if name in registry.names(group) and name not in self.loader.get_group_options(group):
                node = default_part(group, name)
                ConfigStore.instance().store(name=name, node=node, group=group)


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


def _wrong_in_group(tree: dict[Any, Any], group: str) -> Iterator[Mistake]:
    part = tree.get(group)
    name = str(part.get("name")) if isinstance(part, dict) else "null"
    known = registry.names(group)
    if (group, name) != ("activation", AUTO) and not all(part in known for part in name.split("+")):
        near = nearest(name, known)
        yield Mistake(f"{group}.name={name}", f"no {group} has this name", f"name: {near}")
        return
    options, given = declared_options(group, name), dict(leaves(tree[group]))
    for key in given.keys() - options.keys() - {"name"}:
        fix = f"{nearest(key, options)}: VALUE" if options else f"no options, {name} has none"
        yield Mistake(f"{group}.{key}={given[key]}", f"{name} has no such option", fix)
    for key in options.keys() - given.keys():
        resolve.put(tree[group], key, options[key].default)


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
