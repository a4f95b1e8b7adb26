"""Reads the overrides of a command line, and says what is wrong with them and what was meant."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cache

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.errors import HydraException

from normbench.errors import Mistake, Refused
from normbench.parts import registry
from normbench.parts.options import Declared, Unfit, leaves, nearest, written
from normbench.runtime import storage
from normbench.settings.declared import declared_keys, default_part, default_parts, defaults
from normbench.settings.schema import WORDS

RESOLVER = re.compile(r"\$\{[^}]*:")  # such as ${oc.env:HOME}: reads other things than settings
MOST = 100_000  # cells of a sweep, whatever max_cells says
ALL_SETTINGS = "(all settings: normbench train --help)"
EXTRAS = {
    "joblib": "joblib",
    "ray": "ray",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
}
HERE = ("normbench", "basic", "joblib", "ray", "submitit_local")  # launchers that stay on a machine


def key_of(text: str) -> str:
    """Return the key of an override `KEY=VALUE`."""
    return text.partition("=")[0]


def current(text: str) -> str:
    """Write an override as it is written today: `order.alpha=1` for `order_alpha=1`."""
    group, _, rest = text.partition("_")
    known = group in WORDS and f"{group}.{key_of(rest)}" in options_everywhere()
    return f"{group}.{rest}" if known else text


class Overrides:
    """The overrides of one command line, read one by one; mistakes are collected, each once."""

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self.loader, self.parser = loader, OverridesParser.create(loader)
        self.groups = [group for group in loader.list_groups("") if group != "hydra"]
        self.here = True  # whether the runs will be on this machine
        self.keys: list[str] = []  # in the order of the command line
        self.refused: set[str] = set()  # groups for which a name was refused
        self.mistakes: dict[Mistake, None] = {}

    def say(self, subject: str, why: str, fix: str) -> None:
        """Note a mistake."""
        self.mistakes[Mistake(subject, why, fix)] = None

    def stop(self) -> None:
        """Raise Refused with all mistakes, in the order of the command line, if there are any."""
        if self.mistakes:
            raise Refused(*sorted(self.mistakes, key=self._place))

    def given(self, texts: Sequence[str]) -> None:
        """Note the keys of the command line; Hydra would take the last of several in silence."""
        self.keys = [key_of(text) for text in texts]
        for key in sorted({key for key in self.keys if self.keys.count(key) > 1}):
            self.say(key, "is given twice", f"{key}=VALUE once, or {key}=A,B with -m for a sweep")

    def read(self, text: str, multirun: bool) -> list[str]:
        """Return the `KEY=VALUE` texts that one override stands for, none if it is refused."""
        if mistake := too_deep(text):
            self.mistakes[mistake] = None
            return []
        try:
            (override,) = self.parser.parse_overrides([text])
        except HydraException:
            fix = "batch=2    (a value with special characters needs quotes: data.path='a (1)')"
            self.say(text, "cannot be read as KEY=VALUE", fix)
            return []
        key = override.key_or_group
        if override.type.name != "CHANGE" or "@" in key_of(text) or override.package:
            self.say(text, "no setting can be added, deleted or moved", f"{key}=VALUE")
            return []
        if key.startswith("hydra"):
            return self._hydra(text, key, override)
        if RESOLVER.search(text):
            self.say(text, "resolvers are not allowed in settings", f"{key}=VALUE")
            return []
        if override.is_sweep_override() and not multirun:
            self.say(text, "is a list: several runs", f"normbench train -m {text}")
            return []
        checked = self._known_choice if key in self.groups else self._known_key
        return [one for one in self._elements(text, key, override) if checked(key, one)]

    def value(self, text: str) -> object:
        """Return the value of a `KEY=VALUE` text."""
        return self.parser.parse_override(text).value()

    def _elements(self, text: str, key: str, override: Override) -> list[str]:
        if not override.is_sweep_override():
            return [str(override.input_line)]
        values = override.value()
        if isinstance(values, RangeSweep) and not self._countable(text, key, values):
            return []
        texts = [f"{key}={element}" for element in override.sweep_string_iterator()]
        if not texts:
            some = ",".join(registry.choices(key)[:2]) if key in self.groups else None
            self.say(text, "is an empty list", f"{key}={some or written(defaults().get(key))}")
        return texts

    def _countable(self, text: str, key: str, values: RangeSweep) -> bool:
        """Tell whether a range has a number of values that can be enumerated."""
        assert values.start is not None and values.stop is not None
        if not values.step:
            self.say(text, "has a step of 0", f"{key}=range({values.start},{values.stop})")
            return False
        count = math.ceil((values.stop - values.start) / values.step)
        if count > MOST:
            why = f"has {count:,} values, and a sweep at most {MOST:,} cells"
            self.say(text, why, f"{key}=range({values.start},{values.start + 10})")
        return count <= MOST

    def _known_choice(self, key: str, text: str) -> bool:
        name = text.partition("=")[2].strip("'\"")
        known = {*self.loader.get_group_options(key), *registry.names(key)}
        if name in known:
            return True
        near = _alias(key, name) or nearest(name, sorted(known))
        plural = registry.KINDS[key][0]
        self.say(
            text,
            f"no {key if key != 'data' else 'data set'} has this name",
            f"{key}={near}    (all names: normbench list {plural})",
        )
        self.refused.add(key)
        return False

    def _known_key(self, key: str, text: str) -> bool:
        group, _, rest = key.partition(".")
        if rest == "name" and group in self.groups:
            name = text.partition("=")[2]
            self.say(text, f"the {group} is chosen by {group}=NAME", f"{group}={name}")
            return False
        if group in self.groups and rest:
            return True  # whether the part has this option is known once it is composed
        if key in defaults():
            return True
        self.unknown_key(text)
        return False

    def _hydra(self, text: str, key: str, override: Override) -> list[str]:
        if "/" in key:
            name = str(override.value())
            group = key.partition("/")[2]
            if name not in self.loader.get_group_options(key):
                extra = EXTRAS.get(name)
                fix = f"pip install 'normbench[{extra}]'" if extra else f"hydra/{group}=normbench"
                self.say(text, f"no {group} of this name is installed", fix)
            elif group == "launcher":
                self.here = name in HERE
        return []  # Hydra's own settings are Hydra's to check

    def unknown_option(self, text: str, *names: str) -> None:
        """Say that the parts called `names` have no option of this key, and which part has it."""
        group, _, rest = key_of(text).partition(".")
        if group in self.refused:
            return
        options, name = list(default_part(group, names[-1]))[1:], ",".join(names)
        owners = [
            other for other in registry.names(group) if rest in registry.facts(group, other).options
        ]
        if owners:
            fix = f"{group}={min(owners, key=len)} {self._fitting(key_of(text), text)}"
        elif options:
            fix = self._fitting(f"{group}.{nearest(rest, options)}", text)
        else:
            fix = f"{group}={name}, which has no options"
        self.say(text, f"{group}={name} has no such option", fix)

    def unknown_key(self, text: str) -> None:
        """Say that no setting has this name, and which one has a name like it."""
        usual = (
            f"{group}.{option}"
            for group, name in default_parts().items()
            for option, _ in leaves(default_part(group, name))
        )
        # Initializers come last: their options are called like those of what they start.
        names = sorted([*usual, *options_everywhere()], key=lambda name: name.startswith("init."))
        shown = [*defaults(), *self.groups, *names]
        key = key_of(text)
        near = max(shown, key=lambda name: max(_like(key, name), _like(key, _last(name))))
        fix = f"{self._fitting(near, text)}    {ALL_SETTINGS}"
        self.say(text, "no setting has this name", fix)

    def _fitting(self, key: str, text: str) -> str:
        """Return an override of `key` with the value of `text` if it takes that, else another."""
        value = text.partition("=")[2]
        if key in self.groups:
            known = [*self.loader.get_group_options(key), *registry.names(key)]
            return f"{key}={value if value in known else nearest(value, known)}"
        try:
            _declared(key).check(self.value(f"{key}={value}"))
        except HydraException:
            value = written(_declared(key).default)
        except Unfit as unfit:
            value = written(unfit.fix)
        return f"{key}={value}"

    def _place(self, mistake: Mistake) -> int:
        """Find where on the command line the setting stands that a mistake is about."""
        key = key_of(mistake.subject)
        return self.keys.index(key) if key in self.keys else len(self.keys)


def too_deep(text: str) -> Mistake | None:
    """Say what is wrong with an override whose brackets nest deeper than a parser can follow."""
    if storage.nesting(text) <= storage.DEPTH:
        return None
    key, known = key_of(text), {**defaults(), **default_parts()}
    usual = f"{key}={written(known[key])}" if key in known else "batch=2"
    fix = f"{usual}    (brackets in a value: at most {storage.DEPTH} deep)"
    return Mistake(text, "is nested too deep", fix)


@cache
def options_everywhere() -> tuple[str, ...]:
    """List the options of all parts, as `GROUP.OPTION`."""
    found = {
        f"{group}.{key}": None
        for group in registry.KINDS
        for name in registry.names(group)
        for key in registry.facts(group, name).options
    }
    return tuple(found)


def _declared(key: str) -> Declared:
    """Find the declaration of a setting, or of an option of any part."""
    group, _, option = key.partition(".")
    if group not in registry.KINDS:
        return next(setting for setting in declared_keys() if setting.name == key)
    owned = (registry.facts(group, name).options for name in registry.names(group))
    return next(options[option] for options in owned if option in options)


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _like(word: str, other: str) -> float:
    return SequenceMatcher(None, word, other).ratio()


def _alias(group: str, name: str) -> str | None:
    """Find the part that is also called `name`."""
    for known in registry.names(group):
        if name in registry.facts(group, known).constants.get("aliases", ()):
            return known
    return None
