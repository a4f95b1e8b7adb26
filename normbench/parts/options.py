"""Typed settings with ranges: one way to declare and check them, for keys and for parts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import SequenceMatcher
from typing import Any, ClassVar

from normbench.errors import PartError, shown

LIKE = 0.6  # from this likeness on, one word may be a misspelling of the other
MEANT = {
    **dict.fromkeys(("yes", "on", "1", "y", "t", "true"), True),
    **dict.fromkeys(("no", "off", "0", "n", "f", "false"), False),
    **dict.fromkeys(("none", "nil", "~"), None),
}
SIZES = {"k": 10**3, "m": 10**6}
KINDS = {"int": int, "float": float, "bool": bool, "str": str, "None": type(None)}


def option(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
) -> Any:
    """Declare a dataclass field with its range: `low` and `high` inclusive, others exclusive."""
    limits = {"low": low, "high": high, "above": above, "below": below, "choices": choices}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return field(default=default, metadata=given)


@dataclass(frozen=True)
class Declared:
    """One setting as declared: its name, type (`"int | None"`), default and limits."""

    name: str
    type: str
    default: Any
    limits: Mapping[str, Any]

    def __post_init__(self) -> None:
        if isinstance(self.default, tuple):  # how a dataclass has to write the default of a list
            object.__setattr__(self, "default", list(self.default))

    def check(self, value: Any) -> Any:
        """Return `value` in the declared type (an int becomes a float where a float is declared).

        Raises: Unfit, with the reason and a value that would do.
        """
        kinds = [kind.strip() for kind in self.type.split("|")]
        given, value = value, _typed(value, kinds)
        if value is _WRONG:
            raise Unfit(f"is not {_article(kinds, self.limits)}", self._meant(given, kinds))
        choices = self.limits.get("choices")
        if isinstance(value, str) and not value.strip():
            raise Unfit("is empty", self._fix())
        if choices and isinstance(value, str) and value not in choices:
            others = [kind for kind in kinds if kind != "str"]
            why = f"is none of {', '.join(choices)}"
            if others:
                why = f"is not {_article(kinds, self.limits)}"
                raise Unfit(why, near(value, choices) or written(self.default))
            raise Unfit(why, nearest(value, choices))
        numbers = value if isinstance(value, list) else [value]
        if not all(self._within(number) for number in numbers):
            raise Unfit(f"must be {self.range()}", self._clamped(value))
        return value

    def range(self) -> str:
        """Say the allowed range in words, such as `in 0 .. 1` or `above 0`, "" if there is none."""
        limits = self.limits
        if "low" in limits and "high" in limits:
            return f"in {limits['low']} .. {limits['high']}"
        names = {"low": "at least", "above": "above", "high": "at most", "below": "below"}
        return " and ".join(
            f"{word} {limits[name]}" for name, word in names.items() if name in limits
        )

    def _within(self, number: Any) -> bool:
        if isinstance(number, bool) or not isinstance(number, int | float):
            return True
        limits = self.limits
        return bool(
            number >= limits.get("low", -math.inf)
            and number <= limits.get("high", math.inf)
            and number > limits.get("above", -math.inf)
            and number < limits.get("below", math.inf)
        )

    def _meant(self, value: Any, kinds: list[str]) -> Any:
        """Return what a value of a wrong type stands for, such as 1000 for 1000.0 or 1k."""
        if _typed([value], kinds) is not _WRONG:
            return [value]
        for read in (MEANT.get(str(value).casefold(), value), _number(value)):
            if _typed(read, kinds) is not _WRONG and self._within(read):
                return read
        return self._fix()

    def _fix(self) -> Any:
        if "choices" in self.limits:
            return self.limits["choices"][0]
        if self.default is None:
            return "null"
        return written(self.default)

    def _clamped(self, value: Any) -> Any:
        """Return the nearest value inside the range where one exists, else the default."""
        if isinstance(value, int | float):
            low, high = self.limits.get("low"), self.limits.get("high")
            if low is not None and value < low:
                return low
            if high is not None and value > high:
                return high
        return self._fix()


class Unfit(ValueError):
    """A value that a declared setting does not take; `why`, and `fix`, a value that it takes."""

    def __init__(self, why: str, fix: Any) -> None:
        super().__init__(why)
        self.why, self.fix = why, fix


@dataclass(frozen=True)
class Options:
    """The base of every part: a frozen set of options, each checked when the part is made.

    Raises: the `error` of the kind of part, naming the option, its value and a value that works.
    """

    error: ClassVar[type[PartError]] = PartError

    def __post_init__(self) -> None:
        for declared in declarations(type(self)):
            value = getattr(self, declared.name)
            try:
                object.__setattr__(self, declared.name, declared.check(value))
            except Unfit as unfit:
                fix = written(unfit.fix)
                raise self.error(declared.name, shown(value), unfit.why, fix) from None


LEAVES = {str, int, float, bool, list, type(None)}  # asked first: a Mapping is slow to tell


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a tree with their values."""
    for key, value in tree.items():
        if type(value) not in LEAVES and isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def declarations(kind: type) -> list[Declared]:
    """List the settings of a dataclass in the order of their declaration."""
    return [
        Declared(item.name, _type_of(item), _plain_default(item), item.metadata)
        for item in fields(kind)
    ]


def copied(value: Any) -> Any:
    """Copy a tree of dictionaries and lists, which takes `copy.deepcopy` ten times as long."""
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    return list(map(copied, value)) if isinstance(value, list) else value


def written(value: Any) -> str:
    """Write a value as the command line takes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(written(item) for item in value) + "]"
    return str(value)


def nearest(word: str, choices: Iterable[str]) -> str:
    """Find the choice most like `word`, however unlike it is; case does not matter."""
    return max(choices, key=lambda choice: likeness(word, choice))


def near(word: str, choices: Iterable[str]) -> str | None:
    """Find the choice that `word` may be a misspelling of, None if there is none."""
    found = max(choices, key=lambda choice: likeness(word, choice), default="")
    return found if likeness(word, found) >= LIKE else None


def likeness(word: str, choice: str) -> float:
    """Say how much a word is like a choice: 1 for the same, 0 for nothing in common."""
    one, other = (text.casefold().replace("-", "_") for text in (word, choice))
    if len(one) == len(other) == 2 and one[0] == other[0]:
        return LIKE  # of two letters one is right
    return SequenceMatcher(None, one, other).ratio()


def quoted(key: str, text: str, marks: str = "single") -> str:
    """Return an override whose value is read as it stands, between `single` or `double` marks."""
    from hydra.core.override_parser.types import Quote, QuotedString  # not needed to list parts

    return f"{key}={QuotedString(text, Quote[marks]).with_quotes()}"


def _number(value: Any) -> Any:
    """Read a number that is written as `1000.0`, `"64"`, `1e3`, `1_000` or `10k`."""
    text = str(value).replace("_", "").replace(",", "").lower()
    size = SIZES.get(text[-1:], 1)
    try:
        number = float(text if size == 1 else text[:-1]) * size
    except ValueError:
        return value
    return int(number) if number.is_integer() else number


_WRONG = object()


def _typed(value: Any, kinds: list[str]) -> Any:
    """Return `value` in the first kind that takes it, or `_WRONG`."""
    for kind in kinds:
        if kind.startswith("list["):
            if isinstance(value, list | tuple):
                items = [_typed(item, [kind[5:-1]]) for item in value]
                if not any(item is _WRONG for item in items):
                    return items
        elif kind == "float":
            if type(value) in (int, float) and abs(value) <= 1.7e308:  # also refuses nan
                return float(value)
        elif type(value) is KINDS[kind]:
            return value
    return _WRONG


def _article(kinds: list[str], limits: Mapping[str, Any]) -> str:
    """Say the types in words: `an integer`, `a finite number or null`, `an integer or auto`."""
    words = {
        "int": "an integer",
        "float": "a finite number",
        "bool": "true or false",
        "str": " or ".join(limits["choices"]) if "choices" in limits else "a word",
        "list[int]": "a list of integers",
        "list[float]": "a list of numbers",
        "list[str]": "a list of words",
        "None": "null",
    }
    return " or ".join(words[kind] for kind in kinds)


def _type_of(item: dataclasses.Field[Any]) -> str:
    """Write the type of a field, which is text only where annotations are not evaluated."""
    return item.type.__name__ if isinstance(item.type, type) else str(item.type)


def _plain_default(item: dataclasses.Field[Any]) -> Any:
    return None if item.default is dataclasses.MISSING else item.default
