"""How many seeds a difference takes: from the spread of paired differences, before spending."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from normbench.errors import counted
from normbench.results import pairs, stats
from normbench.results.layout import Layout
from normbench.results.metrics import Metric
from normbench.results.tables import Table, TableCell, state_cell

SEEDS = (6, 8, 12, 20)  # for which the smallest difference is told
NOTE = (
    "smallest difference that so many paired seeds resolve, and the seeds that resolve a "
    "difference, in four of five experiments (paired t, two-sided 5 %; at least {} seeds, without "
    "which the exact sign-flip test cannot agree)"
)
UNCERTAIN = "a spread over n seeds is itself uncertain: that of 6 by a factor of 0.6 to 2.5"


@dataclass(frozen=True)
class Spread:
    """How much the paired differences of two arms spread over seeds.

    Args: names: of the pair and of the settings at which it was seen; sd: their standard deviation,
    None where too few seeds are paired; n: the seeds; cost: core-seconds of both arms for one seed.
    """

    names: tuple[str, ...]
    sd: float | None
    n: int = 0
    cost: float | None = None


def spreads(laid: Layout, cost: Mapping[str, float]) -> list[Spread]:
    """Give the spread of each arm's differences to the baseline.

    Args: cost: core-seconds by directory of a run.
    """
    found = []
    for block in laid.blocks.values():
        base = next((row for row in block.groups if row[-1] == laid.baseline), None)
        for row, one in block.above(laid.baseline).items():
            sd = statistics.stdev(one.d) if len(one.d) >= stats.FEWEST else None
            spent = [
                [cost[run.directory] for run in block.groups[arm].results if run.directory in cost]
                for arm in (row, base)
                if arm
            ]
            both = sum(map(stats.mean, spent)) if all(spent) else None
            pair = f"{laid.names[row][-1]} - {laid.baseline}"
            found.append(Spread((pair, block.at), sd, len(one.d), both))
    return found


def table(
    found: Sequence[Spread], metric: Metric, seeds: Sequence[int], differences: Sequence[float]
) -> Table:
    """Lay out what each pair of arms takes.

    Args: differences: those wanted, as they are shown (points of an accuracy).
    """
    at = any(any(spread.names[1:]) for spread in found)
    costs = any(spread.cost for spread in found)
    head = ["pair", *["at"] * at, "sd", "of", *(counted(n, "seed") for n in seeds)]
    for difference in differences:
        head += [f"for {difference:g}", *["core-s"] * costs]
    rows = tuple(_row(spread, metric, at, costs, (seeds, differences)) for spread in found)
    unit = f",{metric.points}" * metric.percent
    few = (UNCERTAIN,) if any(spread.n for spread in found) else ()
    right = frozenset(range(1 + at, len(head)))
    notes = (NOTE.format(pairs.ENOUGH), *few)
    return Table(f"{metric.words}{unit}", tuple(head), rows, 1 + at, right, notes)


def _row(
    spread: Spread,
    metric: Metric,
    at: bool,
    costs: bool,
    asked: tuple[Sequence[int], Sequence[float]],
) -> tuple[TableCell, ...]:
    seeds, differences = asked
    names = [TableCell(name) for name in spread.names[: 1 + at]]
    n = TableCell(str(spread.n) if spread.n else "-")
    if spread.sd is None:
        count = len(seeds) + len(differences) * (1 + costs)
        return (*names, state_cell("-"), n, *[state_cell("-")] * count)
    sd = metric.scale * spread.sd
    cells = [TableCell(_rough(sd)), n]
    cells += [TableCell(_rough(pairs.resolvable(count, sd))) for count in seeds]
    for difference in differences:
        needed = pairs.seeds_for(difference, sd)
        cells.append(TableCell("> 1,000" if needed is None else str(needed)))
        if costs:
            spent = needed * spread.cost if needed and spread.cost else None
            cells.append(TableCell("-" if spent is None else f"{spent:,.0f}"))
    return (*names, *cells)


def _rough(value: float) -> str:
    """Write a number with two digits."""
    return f"{float(f'{value:.2g}'):,.10g}"
