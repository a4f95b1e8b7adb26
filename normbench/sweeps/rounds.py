"""Adds seeds to the pairs of a sweep that are not decided yet, for `seeds=auto`. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from normbench.parts.options import written
from normbench.results import compare
from normbench.results.groups import SEEDS, Key, Result, swept, values_of
from normbench.results.layout import Layout
from normbench.settings.fields import AUTO
from normbench.sweeps.items import LR, PlannedCell


def automatic(cells: Sequence[PlannedCell]) -> bool:
    """Tell whether the number of seeds follows from what the runs come to."""
    return bool(cells) and cells[0].config.seeds == AUTO


def at_most(cells: Sequence[PlannedCell]) -> int:
    """Count the runs that undecided pairs of the cells whose runs are known may still take."""
    left = [each for each in cells if each.config.seeds == AUTO and each.open and each.runs]
    return sum(planned.config.seeds_max - planned.count for planned in left)


def grow(
    cells: Sequence[PlannedCell],
    results: Sequence[Result],
    left_out: Sequence[Mapping[str, str]],
) -> bool:
    """Give each pair that was looked at and is open the seeds of its next look.

    Args: left_out: settings of the cells that do not apply.
    Returns: whether there are any.
    """
    if not results:  # learning rates are still to be chosen
        return False
    laid = _layout(cells, results, left_out)
    wanted: dict[tuple[Key, Key], int] = {}
    for (head, down), block in laid.blocks.items():
        for row, decision in block.decisions(laid.baseline).items():
            for arm in (row, (*down, laid.baseline)):
                cell = head, arm
                wanted[cell] = max(wanted.get(cell, 0), decision.wanted or 0)
    grown = False
    for planned in cells:
        head, row = (values_of(planned.settings, keys) for keys in (laid.across, laid.rows))
        asked = wanted.get((head, row), 0)
        planned.open = asked > 0
        if asked > planned.count:
            planned.count, planned.runs, grown = asked, None, True
    return grown


def _layout(
    cells: Sequence[PlannedCell],
    results: Sequence[Result],
    left_out: Sequence[Mapping[str, str]],
) -> Layout:
    """Lay out what is known as the table will be."""
    config, tuned = cells[0].config, any(planned.tuning for planned in cells)
    varied = swept([*(planned.settings for planned in cells), *left_out])
    keys = [key for key in varied if not (tuned and key == LR) and key not in SEEDS]
    base = None if config.baseline is None else written(config.baseline)
    return compare.layout(results, keys, by=config.compare, baseline=base, most=config.seeds_max)
