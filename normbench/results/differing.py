"""Finds by what recorded runs differ: what can be compared, what stands across, what confounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from normbench.parts.options import written
from normbench.results.groups import PARTS, SEEDS, Result
from normbench.results.layout import place as place_of

MEASURING = ("eval_every",)  # says how often is looked, not what is trained
Values = Mapping[str, str]  # of one configuration, as written on a command line


@dataclass(frozen=True)
class Differing:
    """The keys by which some runs differ.

    Args: results: the runs; the compared part's name has the options in which its arms differ
    behind it, `gn(groups=4)`; keys: what tells all configurations apart, the compared key first;
    confounders: for each other key that differs between compared arms at the same other settings,
    its values by arm.
    """

    results: list[Result]
    keys: list[str]
    confounders: dict[str, dict[str, list[str]]]


def varying(results: Sequence[Result]) -> list[str]:
    """List the keys that vary, parts first, without the seed and what follows from a part's name.

    An option of a part whose value is the same wherever the part has that name tells nothing
    that the name does not tell.
    """
    rows = _distinct(results)
    keys = dict.fromkeys(key for row in rows for key in row)
    found = [key for key in keys if len({row.get(key) for row in rows}) > 1]
    return sorted(
        (key for key in found if not ("." in key and _follows(key, [_part_of(key)], rows))),
        key=place_of,
    )


def differing(results: Sequence[Result], by: str) -> Differing:
    """Say by what runs differ where the values of one key are compared.

    Args: by: one of those that vary, empty where none does.
    """
    named = _named(results, by) if by in PARTS else [*results]
    rows = _distinct(named)
    keys = [key for key in varying(named) if key != by]
    dropped = []
    for key in reversed(keys):
        rest = [by, *(other for other in keys if other != key and other not in dropped)]
        if _follows(key, rest, rows):
            dropped.append(key)
    others = [key for key in keys if key not in dropped]
    found = {key: _by_arm(key, by, others, rows) for key in reversed(dropped)}
    confounders = {key: arms for key, arms in found.items() if arms and key not in MEASURING}
    return Differing(named, [*[by] * bool(by), *others], confounders)


def beside(
    results: Sequence[Result], by: str, keys: Sequence[str]
) -> dict[str, dict[str, list[str]]]:
    """Give what differs between the arms of a sweep besides its own keys: values by arm."""
    rows = _distinct(results)
    others = [key for key in keys if key != by]
    found = {
        key: _by_arm(key, by, others, rows)
        for key in varying(results)
        if key not in keys and not key.startswith(f"{by}.") and key.count(".") < 2
    }
    return {key: arms for key, arms in found.items() if arms and key not in MEASURING}


def _part_of(key: str) -> str:
    return key.partition(".")[0]


def _named(results: Sequence[Result], by: str) -> list[Result]:
    """Put the options in which runs of one part differ behind its name."""
    rows = _distinct(results)
    options = sorted({key for row in rows for key in row if key.startswith(f"{by}.")})
    values: dict[tuple[str, str], set[str | None]] = {}
    for row in rows:
        for key in options:
            values.setdefault((row.get(by, ""), key), set()).add(row.get(key))
    named = []
    for result in results:
        name = written(result.settings.get(by, ""))
        told = [
            f"{key.removeprefix(f'{by}.')}={written(result.settings[key])}"
            for key in options
            if len(values.get((name, key), ())) > 1 and result.settings.get(key) is not None
        ]
        kept = {key: value for key, value in result.settings.items() if key not in options}
        kept[by] = f"{name}({', '.join(told)})" if told else name
        named.append(replace(result, settings=kept))
    return named


def _follows(key: str, others: Sequence[str], rows: Sequence[Values]) -> bool:
    """Tell whether the values of some keys say that of another."""
    found: dict[tuple[str | None, ...], str | None] = {}
    return all(
        found.setdefault(tuple(row.get(other) for other in others), row.get(key)) == row.get(key)
        for row in rows
    )


def _by_arm(
    key: str, by: str, others: Sequence[str], rows: Sequence[Values]
) -> dict[str, list[str]]:
    """Give the values of a key by arm, empty where all arms have one at the same other settings."""
    if _follows(key, others, rows):
        return {}
    arms: dict[str, dict[str, None]] = {}
    for row in rows:
        arms.setdefault(row.get(by, ""), {})[row.get(key, "none")] = None
    return {arm: [*values] for arm, values in arms.items()}


def _distinct(results: Sequence[Result]) -> list[Values]:
    """Write the settings of each configuration once, without its seeds."""
    folders: dict[tuple[str, str], Mapping[str, object]] = {}
    for result in results:
        if result.directory and result.state != "planned":  # else only the words are known
            place = result.directory.rpartition("/")[0], result.evaluation
            folders.setdefault(place, result.settings)
    found: dict[frozenset[tuple[str, str]], Values] = {}
    for settings in folders.values():
        row = {key: written(value) for key, value in settings.items() if key not in SEEDS}
        found.setdefault(frozenset(row.items()), row)
    return [*found.values()]
