"""The seeds of one configuration as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from normbench.results import notes
from normbench.results.groups import RESULTS, Group, Result, further_tests
from normbench.results.tables import Table, TableCell, filled, state_cell

SEED_COLUMNS = 5  # seeds up to which each has a column


def seeds(results: Sequence[Result]) -> Table:
    """Lay out the seeds of one configuration: test accuracies and train-eval gap, in percent.

    Each seed has a column up to 5 seeds, beyond that the lowest and the highest value have one.
    Mean and interval are over the runs that trained.
    """
    names = ("test/accuracy", *further_tests(results), "gap/accuracy")
    accuracy, *_ = groups = [Group(results, name) for name in names]
    single = [f"seed {result.seed}" for result in accuracy.results]
    head = ["", *(single if len(single) <= SEED_COLUMNS else ["lowest", "highest"])]
    if len(single) > 1:
        head += ["mean", "95 % interval"]
    values = accuracy.values
    digits = accuracy.metric.digits(max(values) - min(values) if values else 1.0)
    forms = [f".{digits}f"] * (len(groups) - 1) + [f"+.{digits}f"]
    rows = tuple(
        (TableCell(group.metric.words), *_across(group, form, len(head) - 1))
        for group, form in zip(groups, forms, strict=True)
    )
    below = notes.intervals([accuracy]) if len(single) > 1 else []
    below += notes.failures([accuracy]) + notes.messages(accuracy.results, [])
    return Table("", tuple(head), rows, 1, frozenset(range(1, len(head))), tuple(below))


def _across(group: Group, form: str, columns: int) -> list[TableCell]:
    """Make one row of the table of seeds: each seed or the extremes, then mean and interval."""

    def points(value: float) -> str:
        text = format(100 * value, form)
        return text.lstrip("+-") if float(text) == 0 else text

    if len(group.results) > SEED_COLUMNS:
        values = group.values
        cells = [TableCell(points(pick(values))) for pick in (min, max) if values]
    else:
        cells = [_seed_cell(result, group, points) for result in group.results]
    if len(group.results) > 1 and group.mean is not None:
        varied = any(group.values)
        interval = group.interval if varied else None
        cells.append(TableCell(points(group.mean)))
        bounds = f"{points(interval.low)} .. {points(interval.high)}" if interval else ""
        cells.append(TableCell(bounds))
    return filled(cells, columns)


def _seed_cell(result: Result, group: Group, points: Callable[[float], str]) -> TableCell:
    outcome = group.outcomes.get(result.seed)
    if outcome is None or math.isnan(outcome.value):
        return state_cell("missing" if result.state in RESULTS else result.state)
    if outcome.kind == "diverged":
        return TableCell("diverged", "diverged")
    stuck = outcome.kind == "stuck" and bool(group.metric.larger)
    return TableCell(points(outcome.value) + " stuck" * stuck, "diverged" * outcome.failed)
