"""Several settings at once: how the effect of one hangs on another, and which makes how much of
the variance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from normbench.errors import counted
from normbench.results import pairs, stats
from normbench.results.against import p_text
from normbench.results.export import bounds, difference
from normbench.results.groups import Key, label
from normbench.results.layout import BASELINES, Layout, word
from normbench.results.notes import difference_digits, signed
from normbench.results.pairs import Arm, Comparison
from normbench.results.stats import Interval
from normbench.results.tables import Estimate, Table, TableCell, column, state_cell

NOTE = (
    "difference of the differences, paired by seed over the seeds with which all four arms train; "
    "p t: paired t, Holm over the table; p flip: exact sign flip"
)
SHARES = (
    "share of the sum of squares over all cells and the seeds with which every cell trains; "
    "interval: 95 %, jackknife over seeds; rest: what seeds change about the effects, and joint "
    "effects of more than two settings"
)

Cells = Mapping[tuple[str, ...], Arm]  # by the values of the keys, in their order


@dataclass(frozen=True)
class Change:
    """What an arm is above the baseline at one value of another key, less that at a base of it.

    Args: arm, base: values of the first key; there, here: of the second; at: the other settings.
    """

    arm: str
    base: str
    there: str
    here: str
    at: str
    comparison: Comparison


@dataclass(frozen=True)
class Share:
    """The share of the variance that a setting, a pair of them, the seed or the rest makes."""

    source: str
    share: float
    interval: Interval | None


class Unbalanced(ValueError):
    """Not every combination of the settings has runs that trained with a common seed."""


def cells(laid: Layout) -> tuple[list[str], Cells]:
    """Give the keys of a layout, the compared one first, and its arms by their values."""
    keys = [laid.by, *laid.across, *laid.down]
    found = {}
    for (head, down), block in laid.blocks.items():
        for row, group in block.groups.items():
            found[(row[-1], *head, *down)] = group.arm
    return keys, found


def changes(laid: Layout, other: str) -> list[Change]:
    """Hold the differences to the baseline at each value of another key against one of its values.

    d_i = [M(a, b, i) - M(a0, b, i)] - [M(a, b0, i) - M(a0, b0, i)] for seed i.

    Args: other: a further key of the layout; b0 is `none`, `default`, or its first value.
    """
    keys, arms = cells(laid)
    place = keys.index(other)
    names, levels = _values(arms, 0), _values(arms, place)
    base, here = laid.baseline, next((x for x in BASELINES if x in levels), levels[0])
    plans, family = [], []
    for rest in _rests(arms, place):
        for there in (level for level in levels if level != here):
            for arm in (name for name in names if name != base):
                four = [(name, level) for level in (there, here) for name in (arm, base)]
                quad = [arms.get(_key(rest, place, *at), Arm({})) for at in four]
                at = "  ".join(
                    label(key, value, keys)
                    for key, value in zip(
                        [keys[k] for k in _others(keys, place)], rest, strict=True
                    )
                )
                plans.append((arm, base, there, here, at))
                family.append((_minus(*quad[:2]), _minus(*quad[2:])))
    found = pairs.comparisons(family, laid.measured.larger is not False)
    return [Change(*plan, one) for plan, one in zip(plans, found, strict=True)]


def interaction(laid: Layout, other: str) -> tuple[Table, list[str]]:
    """Lay out the changes of differences as a table, and say each that is clear in a sentence."""
    found = changes(laid, other)
    metric = laid.measured
    digits = difference_digits([change.comparison for change in found], metric)
    texts = [
        signed(one.difference, metric, digits) if (one := change.comparison).difference else None
        for change in found
    ]
    estimates = column([Estimate(t[0], (t[1], t[2])) if t else state_cell("-") for t in texts])
    rows = []
    for change, estimate in zip(found, estimates, strict=True):
        one = change.comparison
        ps = [p_text(p) if one.interval else "-" for p in (one.adjusted, one.p_flip)]
        named = f"{change.arm} above {change.base}"
        turn = f"{label(other, change.there)} less {label(other, change.here)}"
        head = [named, turn, *[change.at] * bool(change.at)]
        rows.append(tuple(map(TableCell, [*head, *ps, str(len(one.d))])))
        rows[-1] = (*rows[-1][: len(head)], estimate, *rows[-1][len(head) :])
    names = [word(laid.by), word(other), *["at"] * any(change.at for change in found)]
    title = f"{metric.words}{f',{metric.points}' * metric.percent}: {word(laid.by)} x {word(other)}"
    top = (*names, "change of difference", "p t", "p flip", "seeds")
    table = Table(title, top, tuple(rows), len(names), notes=(NOTE,))
    said = [_sentence(change, laid, other, digits) for change in found]
    return table, [sentence for sentence in said if sentence]


def shares(laid: Layout) -> list[Share]:
    """Split the variance among the settings, their pairs, the seed and the rest.

    For a setting, SS = sum over its values v of n_v (mean_v - mean)^2; for a pair, the same over
    the combinations of both less the SS of each; the rest is what is left of the total.

    Raises: Unbalanced if a combination lacks runs, or no seed trains in all of them.
    """
    keys, arms = cells(laid)
    seeds = _common(arms)
    size = 1
    for place in range(len(keys)):
        size *= len(_values(arms, place))
    if len(arms) < size or len(seeds) < 2:
        raise Unbalanced
    whole = _split(keys, arms, seeds)
    left = [_split(keys, arms, [s for s in seeds if s != out]) for out in seeds]
    n, found = len(seeds), []
    for source, share in whole.items():
        pseudo = [n * share - (n - 1) * part[source] for part in left]
        interval = stats.interval(pseudo, within=(0.0, 1.0)) if n > 2 else None
        found.append(Share(source, share, interval))
    return found


def anova(laid: Layout) -> Table:
    """Lay out the shares of the variance.

    Raises: Unbalanced as `shares` does.
    """
    found = shares(laid)
    entries = [
        Estimate(
            f"{100 * one.share:.1f}",
            (f"{100 * one.interval.low:.1f}", f"{100 * one.interval.high:.1f}")
            if one.interval
            else None,
        )
        for one in found
    ]
    rows = tuple(
        (TableCell(one.source), cell) for one, cell in zip(found, column(entries), strict=True)
    )
    seeds = len(_common(cells(laid)[1]))
    title = f"variance of {laid.measured.words} over {counted(seeds, 'seed')}"
    return Table(title, ("source", "share, %"), rows, 1, notes=(SHARES,))


def documents(laid: Layout, other: str | None, variance: bool) -> dict[str, object]:
    """Give the changes of differences with another key, and the shares, as plain data."""
    found: dict[str, object] = {}
    if other is not None:
        found["interaction"] = [
            {
                "arm": change.arm,
                "above": change.base,
                "at": change.there,
                "less_at": change.here,
                "where": change.at,
                **difference(change.comparison),
            }
            for change in changes(laid, other)
        ]
    if variance:
        found["variance"] = [
            {"source": one.source, "share": one.share, "interval": bounds(one.interval)}
            for one in shares(laid)
        ]
    return found


def _split(keys: Sequence[str], arms: Cells, seeds: Sequence[int]) -> dict[str, float]:
    """Give the share of each source in the sum of squares over some seeds."""
    values = {(*key, str(seed)): arm.values[seed] for key, arm in arms.items() for seed in seeds}
    grand = stats.mean([*values.values()])
    total = sum((value - grand) ** 2 for value in values.values()) or 1.0
    alone = [_between(values, [place], grand) for place in range(len(keys))]
    found = {word(key): part for key, part in zip(keys, alone, strict=True)}
    for one, other in combinations(range(len(keys)), 2):
        both = _between(values, [one, other], grand)
        found[f"{word(keys[one])} x {word(keys[other])}"] = both - alone[one] - alone[other]
    found["seed"] = _between(values, [len(keys)], grand)
    found["rest"] = total - sum(found.values())
    return {source: max(0.0, part) / total for source, part in found.items()}


def _between(values: Mapping[tuple[str, ...], float], places: Sequence[int], grand: float) -> float:
    """Sum n (mean - grand)^2 over the combinations of some keys."""
    groups: dict[Key, list[float]] = {}
    for key, value in values.items():
        groups.setdefault(tuple(key[place] for place in places), []).append(value)
    return sum(len(group) * (stats.mean(group) - grand) ** 2 for group in groups.values())


def _sentence(change: Change, laid: Layout, other: str, digits: int) -> str | None:
    """Say a change whose sign is clear by both tests."""
    one = change.comparison
    if one.difference is None or one.verdict not in ("better", "worse"):
        return None
    mean, low, high = signed(one.difference, laid.measured, digits)
    at = f"{change.at}: " if change.at else ""
    here, there = label(other, change.here), label(other, change.there)
    return (
        f"{at}what {change.arm} is above {change.base} changes by {mean} [{low}, {high}] "
        f"from {here} to {there}"
    )


def _common(arms: Cells) -> list[int]:
    """List the seeds with which every cell trains."""
    return sorted(set.intersection(*(set(arm.values) for arm in arms.values())))


def _minus(arm: Arm, base: Arm) -> Arm:
    common = arm.values.keys() & base.values.keys()
    return Arm({seed: arm.values[seed] - base.values[seed] for seed in common})


def _values(arms: Cells, place: int) -> list[str]:
    return [*dict.fromkeys(key[place] for key in arms)]


def _others(keys: Sequence[str], place: int) -> list[int]:
    return [at for at in range(1, len(keys)) if at != place]


def _rests(arms: Cells, place: int) -> Iterator[tuple[str, ...]]:
    """Give each combination of the keys besides the two."""
    first = next(iter(arms))
    yield from dict.fromkeys(tuple(key[at] for at in _others(first, place)) for key in arms)


def _key(rest: tuple[str, ...], place: int, name: str, level: str) -> tuple[str, ...]:
    """Put the values of all keys in their order."""
    values = [name, *rest]
    values.insert(place, level)
    return tuple(values)
