"""Chooses among recorded runs by their settings, `norm=bn,gn batch=2`, and sorts them. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from normbench.errors import Mistake, Refused
from normbench.parts.options import nearest, written
from normbench.results.groups import Result
from normbench.results.layout import BASELINES

ITEMS = re.compile(r"(?:\[[^\]]*\]|\([^)]*\)|[^,\[(])+")  # a comma in brackets does not separate
MOST = 12  # values that a message lists


@dataclass(frozen=True)
class Filter:
    """A key and the values of it that are wanted, in the order typed."""

    key: str
    values: tuple[str, ...]

    def place(self, result: Result) -> int | None:
        """Give the place of a run's value among those wanted, None where it is not wanted."""
        if self.key not in result.settings:
            return None
        own = written(result.settings[self.key])
        return next((at for at, value in enumerate(self.values) if _equal(own, value)), None)


def read(words: Sequence[str]) -> list[Filter]:
    """Read the words of a filter.

    Raises: Refused with all that are not of the form KEY=VALUE,VALUE.
    """
    wrong = [
        Mistake(word, "is not of the form KEY=VALUE,VALUE", "--where norm=bn,gn batch=2")
        for word in words
        if not all(word.partition("="))
    ]
    if wrong:
        raise Refused(*wrong)
    pairs = [word.partition("=") for word in words]
    return [Filter(key, tuple(ITEMS.findall(values))) for key, _, values in pairs]


def apply(filters: Sequence[Filter], results: Sequence[Result]) -> list[Result]:
    """Keep the runs that all filters want, sorted by the order in which values were typed.

    Args: results: at least one.
    Raises: Refused for a key that no run has, or a value that none of them has.
    """
    mistakes = [mistake for each in filters for mistake in _unknown(each, results)]
    if mistakes:
        raise Refused(*mistakes)
    placed = [([each.place(result) for each in filters], result) for result in results]
    kept = [(places, result) for places, result in placed if None not in places]
    if not kept:
        words = " ".join(f"{each.key}={','.join(each.values)}" for each in filters)
        why = f"no run has all of these, of the {len(results)} that are here"
        raise Refused(Mistake(words, why, f"--where {words.partition(' ')[0]}"))
    return [result for _, result in sorted(kept, key=lambda pair: pair[0])]


def ordered(
    results: Sequence[Result], keys: Sequence[str], wanted: Sequence[Filter]
) -> list[Result]:
    """Sort runs by some keys: the values of a filter as they come, others by size or name."""
    asked = [each.key for each in wanted]
    comes = {
        key: {value: at for at, value in enumerate(dict.fromkeys(_values(results, key)))}
        for key in asked
    }

    def place(result: Result) -> list[object]:
        values = ((key, written(result.settings.get(key, ""))) for key in [*asked, *keys])
        return [comes[key][text] if key in comes else natural(text) for key, text in values]

    return sorted(results, key=place)


def natural(text: str) -> tuple[int, float, str]:
    """Give the place of a value: what stands for nothing, then numbers by size, then names."""
    try:
        return 1, float(text), ""
    except ValueError:
        return (0 if text in BASELINES else 2), 0.0, text


def _unknown(wanted: Filter, results: Sequence[Result]) -> list[Mistake]:
    """Say that no run has a key, or which of the wanted values none has."""
    keys = {key: value for result in results for key, value in result.settings.items()}
    if wanted.key not in keys:
        near = nearest(wanted.key, keys)
        return [
            Mistake(wanted.key, "no run here has this setting", f"{near}={written(keys[near])}")
        ]
    values = dict.fromkeys(
        written(result.settings[wanted.key]) for result in results if wanted.key in result.settings
    )
    listed = ", ".join([*values][:MOST]) + ", …" * (len(values) > MOST)
    return [
        Mistake(
            f"{wanted.key}={value}",
            f"no run here has this value, but {listed}",
            f"--where {wanted.key}={next(iter(values))}",
        )
        for value in wanted.values
        if not any(_equal(own, value) for own in values)
    ]


def _equal(one: str, other: str) -> bool:
    """Tell whether two values are the same as text or as numbers."""
    if one == other:
        return True
    try:
        return float(one) == float(other)
    except ValueError:
        return False


def _values(results: Sequence[Result], key: str) -> list[str]:
    return [written(result.settings.get(key, "")) for result in results]
