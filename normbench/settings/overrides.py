"""Reads the overrides of a command line, and says what is wrong with them and what was meant."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from normbench.errors import Mistake, Refused
from normbench.parts import registry
from normbench.parts.options import leaves, near, quoted, written
from normbench.settings import rules
from normbench.settings.composer import GRIDS, PRESETS, RESOLVER, files_of, groups_of
from normbench.settings.declared import defaults
from normbench.settings.members import is_member
from normbench.settings.schema import WORDS
from normbench.settings.suggest import ELSE, OVERRIDE, Suggestions, options_everywhere

PATHS = ("outputs", "data.root", "data.path")  # the last can be swept
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir")
UNREAD = "cannot be read as KEY=VALUE"
EXTRAS = {name: name for name in ("joblib", "optuna", "ray")} | {
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
}
OTHERS = ("hydra", "study")  # folders of settings that are not for a run
HERE = ("normbench", "basic", "joblib", "ray", "submitit_local")  # launchers that stay on a machine


def key_of(text: str) -> str:
    """Return the key of an override `KEY=VALUE`."""
    return text.partition("=")[0]


def current(text: str, multirun: bool = False) -> str:
    """Write an override as Hydra reads it: a path quoted, `order.alpha=1` for `order_alpha=1`."""
    key, equals, value = text.lstrip("+").partition("=")
    if key == PRESETS or is_member(key):
        return f"{key}{equals}{value}"
    listed = multirun and key == PATHS[-1] and "," in value
    if key in PATHS and equals and _plain_path(value) and not listed:
        return quoted(key, value)
    group, _, rest = text.partition("_")
    known = group in WORDS and f"{group}.{key_of(rest)}" in options_everywhere()
    return f"{group}.{rest}" if known else text


def _plain_path(value: str) -> bool:
    return value not in ("", "null") and value[0] not in "'\"" and "${" not in value


def beside(texts: Sequence[str], params: Mapping[str, str]) -> list[str]:
    """Put the lists of a file before a command line, which wins in the place of the file's."""
    kept = {key: f"{key}={value}" for key, value in params.items()}
    kept |= {key_of(text): text for text in texts if key_of(text) in kept}
    return [*kept.values(), *(text for text in texts if key_of(text) not in kept)]


def each_alone(choices: list[list[str]]) -> Iterator[tuple[str, ...]]:
    """Give the first of all values, then each other value beside the first of the others."""
    first = tuple(texts[0] for texts in choices)
    yield first
    for place, texts in enumerate(choices):
        yield from ((*first[:place], text, *first[place + 1 :]) for text in texts[1:])


class Overrides:
    """The overrides of one command line, read one by one; mistakes are collected, each once."""

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self.loader, parser = loader, OverridesParser.create(loader)
        self.parsed = cache(lambda text: parser.parse_overrides([text])[0])  # takes 1 ms
        self.groups = [group for group in groups_of(loader) if group not in OTHERS]
        self._choices: dict[str, list[str]] = {}
        self.suggest = Suggestions(self.groups, self.choices, self.value)
        self.sweeper = GRIDS[0]
        self.keys: list[str] = []  # in the order of the command line
        self.refused: set[str] = set()  # groups for which a name was refused
        self.mistakes: dict[Mistake, None] = {}

    def say(self, subject: str, why: str, fix: str) -> None:
        """Note a mistake."""
        self.mistakes[Mistake(subject, why, fix)] = None

    def ordered(self) -> list[Mistake]:
        """List the mistakes in the order of the command line, without those that follow."""
        found = sorted(self.mistakes, key=self._place)
        unread = {key_of(each.subject) for each in found if each.why == UNREAD}
        return [each for each in found if each.why == UNREAD or key_of(each.subject) not in unread]

    def stop(self) -> None:
        """Raise Refused with all mistakes, in the order of the command line, if there are any."""
        if self.mistakes:
            # Of suggestions that are tried in turn, the last stands by itself.
            plain = ((each, each.fix.rpartition(ELSE)[2]) for each in self.ordered())
            raise Refused(*(replace(each, fix=fix) for each, fix in plain))

    def given(self, texts: Sequence[str]) -> None:
        """Note the keys of the command line; Hydra would take the last of several in silence."""
        self.keys = [key_of(text) for text in texts]
        for key in sorted({key for key in self.keys if self.keys.count(key) > 1}):
            self.say(key, "is given twice", f"{key}=VALUE once, or {key}=A,B with -m for a sweep")

    def choices(self, group: str) -> list[str]:
        """List what can be chosen of a group, by Hydra or of another package."""
        if group not in self._choices:
            own = registry.names(group) if group in registry.KINDS else []
            self._choices[group] = sorted({*files_of(self.loader, group), *own})
        return self._choices[group]

    def hydras(self, texts: Sequence[str]) -> list[str]:
        """Pick the words that are Hydra's own, and are of something that is installed."""
        found = []
        for text in texts:
            override = self._parsed(text, quiet=True)
            if override and override.key_or_group.partition(".")[0].split("/")[0] == "hydra":
                key = override.key_or_group
                if "/" not in key or self._installed(text, key, str(override.value())):
                    found.append(text)
        return found

    def folders(self, texts: Sequence[str], launcher: str) -> None:
        """Refuse folders of Hydra's that a sweep of our own launcher does not have."""
        for text in texts:
            if key_of(text) in FOLDERS and launcher == self.sweeper == GRIDS[0]:
                self.say(text, "sweeps lie below outputs/sweeps", "outputs=outputs")

    def absolute(self, texts: Sequence[str], tree: Mapping[str, Any]) -> list[str]:
        """Let paths begin at this folder, whatever folder Hydra changes to.

        Args: tree: has the paths that are not given.
        """
        usual = {**dict(leaves(tree)), "data.root": os.environ.get("NORMBENCH_DATA") or "data"}
        given = {key_of(text): self.value(text) for text in texts if key_of(text) in PATHS}
        made = [text for text in texts if not isinstance(given.get(key_of(text)), str)]
        for key in PATHS:
            path = given.get(key, usual.get(key))
            if isinstance(path, str):
                made.append(quoted(key, os.path.abspath(os.path.expanduser(path))))
        return made

    def read(self, text: str, multirun: bool) -> list[str]:
        """Return the `KEY=VALUE` texts that one override stands for, none if it is refused."""
        override = self._parsed(text)
        if override is None:
            return []
        key = override.key_or_group
        if key.partition(".")[0].partition("/")[0] == "hydra":
            return []  # Hydra's own settings are Hydra's to check
        if override.type.name != "CHANGE" or "@" in key_of(text) or override.package:
            fix = text.lstrip("+~") if "=" in text and "@" not in text else f"{key}=VALUE"
            self.say(text, "no setting can be added, deleted or moved", fix)
            return []
        if RESOLVER.search(text):
            self.say(text, "resolvers are not allowed in settings", f"{key}=VALUE")
            return []
        if override.is_sweep_override() and not multirun and not self._for_others(override):
            fix = f"normbench train -m {shlex.quote(text)}"
            self.say(text, "is a list: several runs", fix)
            return []
        checked = self._known_choice if key in self.groups else self._known_key
        return [one for one in self._elements(text, key, override) if checked(key, one)]

    def value(self, text: str) -> object:
        """Return the value of a `KEY=VALUE` text."""
        return self.parsed(text).value()

    def unknown_option(self, text: str, *names: str) -> None:
        """Say that the parts called `names` have no option of this key, and which part has it."""
        group = key_of(text).partition(".")[0]
        if group not in self.refused:
            fix = self.suggest.option(text, names[-1])
            self.say(text, f"{group}={','.join(names)} has no such option", fix)

    def unknown_switch(self, word: str, value: str) -> None:
        """Say that a word such as `--gpus 2` is not an option, and which setting is meant."""
        key = word.lstrip("-").replace("-", "_")
        shown = f"{word} {value}".strip()
        self.say(shown, "is not an option; settings are KEY=VALUE", self.suggest.switch(key, value))

    def _parsed(self, text: str, quiet: bool = False) -> Override | None:
        mistake = rules.too_large(text)
        try:
            if mistake is None:
                return self.parsed(text)
        except HydraException:
            key, _, value = text.partition("=")
            way = (
                f"{shlex.quote(quoted(key, value, 'double'))}{ELSE}"  # the shell takes single ones
            )
            way *= bool(OVERRIDE.fullmatch(text))
            fix = "batch=2    (settings are KEY=VALUE; a value with special characters in quotes)"
            mistake = Mistake(text, UNREAD, f"{way}{fix}")
        if not quiet:
            self.mistakes[mistake] = None
        return None

    def _elements(self, text: str, key: str, override: Override) -> list[str]:
        if not override.is_sweep_override():
            return [str(override.input_line)]
        values = override.value()
        if isinstance(values, RangeSweep) and not self._countable(text, key, values):
            return []
        if self._for_others(override):
            what = "an interval" if isinstance(values, IntervalSweep) else "a list with tags"
            why = f"is {what}, for sweepers that choose, such as hydra/sweeper=optuna"
            ends = _ends(values) if isinstance(values, IntervalSweep) else None
            listed = ends or override.sweep_string_iterator()
            self.say(text, why, f"{key}={','.join(map(str, listed))}")
            return []
        if isinstance(values, IntervalSweep):
            return [f"{key}={end}" for end in _ends(values)]
        as_typed = {"True": "true", "False": "false"}  # Hydra gives those of Python
        listed = override.sweep_string_iterator()
        texts = [f"{key}={as_typed.get(str(each), each)}" for each in listed]
        if not texts:
            self.say(text, "is an empty list", self._listed(key))
        return texts

    def _for_others(self, override: Override) -> bool:
        """Tell whether a list is for sweepers that choose, and the sweeper tries every cell."""
        values = override.value()
        chosen = isinstance(values, IntervalSweep) or getattr(values, "tags", None)
        return self.sweeper in GRIDS and bool(chosen)

    def _listed(self, key: str) -> str:
        """Give a list of values that a sweep can have."""
        if key in self.groups:
            return f"{key}={','.join(self.choices(key)[:2])}"
        return f"{key}={written(self.suggest.default(key))}"

    def _countable(self, text: str, key: str, values: RangeSweep) -> bool:
        """Tell whether a range has a number of values that can be enumerated."""
        assert values.start is not None and values.stop is not None
        if not values.step:
            self.say(text, "has a step of 0", f"{key}=range({values.start},{values.stop})")
            return False
        count = math.ceil((values.stop - values.start) / values.step)
        if count > rules.MOST:
            why = f"has {count:,} values, and a sweep at most {rules.MOST:,} cells"
            self.say(text, why, f"{key}=range({values.start},{values.start + 10})")
        return count <= rules.MOST

    def _known_choice(self, key: str, text: str) -> bool:
        name = text.partition("=")[2].strip("'\"")
        if name in self.choices(key):
            return True
        kind = {"data": "data set", PRESETS: "preset"}.get(key, key)
        self.say(text, f"no {kind} has this name", self.suggest.choice(key, name))
        self.refused.add(key)
        return False

    def _known_key(self, key: str, text: str) -> bool:
        group, _, rest = key.partition(".")
        if rest == "name" and group in self.groups:
            name = text.partition("=")[2]
            self.say(text, f"the {group} is chosen by {group}=NAME", f"{group}={name}")
            return False
        if group in registry.KINDS and rest:
            return True  # whether the part has this option is known once it is composed
        if key in defaults():
            return True
        self.say(text, "no setting has this name", self.suggest.key(text))
        return False

    def _installed(self, text: str, key: str, name: str) -> bool:
        """Say so if Hydra has no such group, or no plugin of a name is installed."""
        group, known = key.partition("/")[2], files_of(self.loader, key)
        if name in known or not known:
            return True  # a group that there is not is Hydra's to refuse
        extra, meant = EXTRAS.get(name), near(name, known)
        fix = f"pip install 'normbench[{extra}]'" if extra else f"{key}={meant or known[0]}"
        if not extra and not meant and "normbench" in known:
            fix = f"{key}=normbench"
        self.say(text, f"no {group} of this name is installed", fix)
        return False

    def _place(self, mistake: Mistake) -> int:
        """Find where on the command line the setting stands that a mistake is about."""
        key = key_of(mistake.subject)
        return self.keys.index(key) if key in self.keys else len(self.keys)


def _ends(interval: IntervalSweep) -> list[str]:
    return [f"{end:g}" for end in (interval.start, interval.end) if end is not None]
