"""Lays out the cells of a sweep: which key is compared, which stand across and which down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from normbench.results import metrics, pairs, sequential
from normbench.results.groups import (
    PARTS,
    Group,
    Key,
    Result,
    labels_of,
    values_of,
)
from normbench.results.metrics import Metric
from normbench.results.pairs import Arm, Comparison

FIRST = ("norm", "init")  # what a sweep compares, if it sweeps it
BASELINES = ("none", "default")
COLUMNS = 6  # values up to which they stand side by side


def compared_key(keys: Sequence[str]) -> str:
    """Choose what a sweep compares: the norm, else the initializer, else its first key.

    The first is that of a fixed order, parts before settings, whatever the order of the words.
    Returns: empty where nothing is swept.
    """
    return next(iter([key for key in FIRST if key in keys] or sorted(keys, key=place)), "")


def word(key: str) -> str:
    """Say a key as a noun: `norm`, `lr` for `optimizer.lr`."""
    return key.rpartition(".")[2]


@dataclass(frozen=True)
class Block:
    """The arms that differ in the compared key alone, by the row in which they stand.

    Args: at: the other settings as text, such as `batch 2`; largest: whether a larger value is
    better, None where neither is, as for a train-eval gap; most: the seeds at which `seeds=auto`
    ends, where no test for a number of seeds that was fixed before holds.
    """

    at: str
    groups: Mapping[Key, Group]
    largest: bool | None
    most: int | None = None

    @cached_property
    def trained(self) -> dict[Key, Arm]:
        """Give the arms of which a run trained; others cannot be compared by value."""
        return {row: group.arm for row, group in self.groups.items() if group.arm.values}

    @cached_property
    def best(self) -> Key | None:
        """Name the arm with the best mean, None where there is nothing to compare it with."""
        if self.largest is None or self.most or len(self.trained) < 2:
            return None
        return pairs.best(self.trained, self.largest)

    @cached_property
    def rivals(self) -> dict[Key, Comparison]:
        """Hold the best arm against the others, the nearest first; empty without a best."""
        if self.best is None or self.largest is None:
            return {}
        others = [row for row in self.trained if row != self.best]
        found = pairs.comparisons(
            [(self.trained[self.best], self.trained[row]) for row in others], self.largest
        )
        return dict(sorted(zip(others, found, strict=True), key=lambda rival: rival[1].mean))

    def above(self, base: str) -> dict[Key, Comparison]:
        """Hold every arm that trained against the one of a value of the compared key."""
        if base not in self._above:
            self._above[base] = self._against(base)
        return self._above[base]

    @cached_property
    def _above(self) -> dict[str, dict[Key, Comparison]]:
        return {}

    def _against(self, base: str) -> dict[Key, Comparison]:
        baseline = next((arm for row, arm in self.trained.items() if row[-1] == base), None)
        if baseline is None:
            return {}
        rows = [row for row in self.trained if row[-1] != base]
        family = [(self.trained[row], baseline) for row in rows]
        found = pairs.comparisons(family, self.largest is not False)
        return dict(zip(rows, found, strict=True))

    def decisions(self, base: str) -> dict[Key, sequential.Decision]:
        """Say by the sequential test which arms differ from that of a value of the compared key.

        All decisions of a block hold together: each has its share of the 5 % (Bonferroni).
        """
        arms = {
            row: group
            for row, group in self.groups.items()
            if group.state not in ("does not apply", "missing")
        }
        other = next((group for row, group in arms.items() if row[-1] == base), None)
        rows = [row for row in arms if row[-1] != base]
        if other is None or self.most is None:
            return {}
        found = {}
        for row in rows:
            seeds = [result.seed for result in arms[row].results]
            runs = [(arms[row].outcomes.get(seed), other.outcomes.get(seed)) for seed in seeds]
            found[row] = sequential.decide(runs, self.most, pairs.ALPHA / len(rows))
        return found

    @cached_property
    def star(self) -> Key | None:
        """Name the arm that is better than every other, None where none is."""
        missing = [comparison.missing for comparison in self.rivals.values()]
        return self.best if missing and not any(missing) else None


@dataclass(frozen=True)
class Layout:
    """Where the cells of a sweep stand in a table of one metric.

    The compared key is the rows. The other keys, in a fixed order, stand across where all their
    combinations have at most 6 values, else the last of them does if it has, the others down.

    Args: by: the compared key, empty where nothing is swept; wanted: the value of it that
    differences are to, by default `none`, `default`, or the first; as_chance: whether a failed run
    counts as one that guesses; most: the seeds at which `seeds=auto` ends;
    order: values of the compared key that come first.
    Raises: groups.Twice if two runs of one cell have the same seed: a copy, or a key is missing.
    """

    results: Sequence[Result]
    keys: Sequence[str]
    metric: str
    by: str = ""
    wanted: str | None = None
    as_chance: bool = False
    most: int | None = None
    order: Sequence[str] = ()
    across: list[str] = field(init=False)
    down: list[str] = field(init=False)  # without the compared key

    def __post_init__(self) -> None:
        others = sorted((key for key in self.keys if key != self.by), key=place)
        cuts = [cut for cut in (0, len(others) - 1) if self._count(others[cut:]) <= COLUMNS]
        cut = cuts[0] if others and cuts else len(others)
        object.__setattr__(self, "across", others[cut:])
        object.__setattr__(self, "down", others[:cut])

    @property
    def measured(self) -> Metric:
        """Say of the metric what there is to know."""
        return metrics.of(self.metric)

    @cached_property
    def rows(self) -> list[str]:
        """List the keys whose values name a row."""
        named = [*self.down, *[self.by] * bool(self.by)]
        settings = self.results[0].settings if self.results else {}
        return named or [key for key in ("model", "norm") if key in settings]

    @cached_property
    def heads(self) -> dict[Key, str]:
        """Give the columns: by values of the keys across, as text."""
        return {key: "  ".join(filter(None, texts)) for key, texts in self._named(self.across)}

    @cached_property
    def names(self) -> dict[Key, Key]:
        """Give the rows: by values of the keys that name them, as texts."""
        return dict(self._named(self.rows))

    @cached_property
    def blocks(self) -> dict[tuple[Key, Key], Block]:
        """Give what is compared: by values of the keys across and of the others down."""
        found: dict[tuple[Key, Key], Block] = {}
        for head, column in self.heads.items():
            for down, texts in self._named(self.down):
                groups = {
                    row: Group(self._cells.get((head, row), []), self.metric, self.as_chance)
                    for row in self.names
                    if row[: len(down)] == down
                }
                at = "  ".join(filter(None, [*texts, column]))
                found[head, down] = Block(at, groups, self.measured.larger, self.most)
        return found

    def block(self, head: Key, row: Key) -> Block:
        """Give the block in which a cell is compared."""
        return self.blocks[head, row[: len(self.down)]]

    @cached_property
    def baseline(self) -> str:
        """Choose the value of the compared key that differences are to."""
        values = list(dict.fromkeys(row[-1] for row in self.names))
        return next(value for value in (self.wanted, *BASELINES, *values) if value in values)

    @property
    def ranking(self) -> list[str]:
        """List the values of the compared key by their mean place, the best or smallest first.

        The place is among the arms that have a mean at the same other settings.
        """
        places: dict[str, list[int]] = {}
        for block in self.blocks.values():
            known = {row: group.mean for row, group in block.groups.items()}
            means = {row: mean for row, mean in known.items() if mean is not None}
            ordered = sorted(means, key=means.__getitem__, reverse=bool(self.measured.larger))
            for at, row in enumerate(ordered):
                places.setdefault(row[-1], []).append(at)
        return sorted(places, key=lambda value: sum(places[value]) / len(places[value]))

    @cached_property
    def _cells(self) -> dict[tuple[Key, Key], list[Result]]:
        found: dict[tuple[Key, Key], list[Result]] = {}
        for result in self.results:
            cell = values_of(result.settings, self.across), values_of(result.settings, self.rows)
            found.setdefault(cell, []).append(result)
        return found

    def _count(self, keys: Sequence[str]) -> int:
        return len({values_of(result.settings, keys) for result in self.results})

    def _named(self, keys: Sequence[str]) -> list[tuple[Key, Key]]:
        """List the values of some keys and how they are said, each key in the order given."""
        places = [self._places(key) for key in keys]
        found = {
            values_of(result.settings, keys): labels_of(result.settings, keys, self.keys)
            for result in self.results
        }
        order = sorted(
            found, key=lambda values: [at[value] for at, value in zip(places, values, strict=True)]
        )
        return [(values, found[values]) for values in order]

    def _places(self, key: str) -> dict[str, int]:
        first = self.order if key == self.by else ()
        found = (values_of(result.settings, [key])[0] for result in self.results)
        values = dict.fromkeys([*first, *found])
        return {value: order for order, value in enumerate(values)}


def place(key: str) -> tuple[int, str]:
    """Give the place of a key in the fixed order: parts first, then settings by name."""
    return (PARTS.index(key) if key in PARTS else len(PARTS), key)
