"""Compares the cells of a sweep: a table of the metric, and one of differences to a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from normbench.results import notes
from normbench.results.groups import RESULTS, Group, Key, Result
from normbench.results.layout import Block, Layout, compared_key, word
from normbench.results.metrics import Metric
from normbench.results.notes import difference_digits, signed
from normbench.results.pairs import Comparison
from normbench.results.sequential import Decision
from normbench.results.tables import Estimate, Table, TableCell, column, state_cell


def layout(
    results: Sequence[Result],
    keys: Sequence[str],
    metric: str = "test/accuracy",
    by: str | None = None,
    baseline: str | None = None,
    most: int | None = None,
) -> Layout:
    """Lay out the results of a sweep; of a further test, only the runs that have it.

    Args: keys: the swept keys without the seed; by: the compared one, by default `norm`, `init`,
    or the first; baseline: the value of it that differences are to, by default `none`, `default`,
    or the first; most: the seeds at which `seeds=auto` ends.
    """
    for test in metric.split("/", 2)[2:]:
        results = [result for result in results if test in result.tests]
    by = compared_key(keys) if by is None else by
    return Layout(results, keys, metric, by, baseline, most=most)


def table(laid: Layout) -> Table:
    """Show a metric: the compared key is the rows, the others stand across if they fit.

    A cell is the mean over the runs that trained, in percent, with its 95 % interval from 3 of
    them on, and how many failed. The star stands where a cell is better than every other at the
    same settings; a note says why none is.
    """
    groups = [group for block in laid.blocks.values() for group in block.groups.values()]
    digits = _digits(groups, laid.measured)
    columns = [
        column([_entry(laid.block(head, row), row, digits) for row in laid.names])
        for head in laid.heads
    ]
    rows = tuple(
        (*map(TableCell, name), *cells)
        for name, *cells in zip(laid.names.values(), *columns, strict=True)
    )
    heads = laid.heads.values() if laid.across else [_seed_count(groups)] * len(laid.heads)
    below = [
        *notes.verdicts(laid),
        *notes.intervals(groups),
        *notes.failures(groups),
        *notes.shared(groups),
        *notes.messages([run for group in groups for run in group.results], laid.keys),
    ]
    title = _title(laid, laid.measured.title)
    return Table(title, (*laid.rows, *heads), rows, len(laid.rows), frozenset(), tuple(below))


def differences(laid: Layout) -> Table | None:
    """Show what each arm is above a baseline, paired by seed, with interval and p.

    With `seeds=auto` it has confidence sequences, and after how many seeds each was decided.

    Returns: None where no pair has the 3 seeds of an interval, or nothing is compared.
    """
    if not laid.by or not laid.names:
        return None
    if laid.most:
        return _decisions(laid)
    base = laid.baseline
    found = {
        (head, row): comparison
        for (head, _), block in laid.blocks.items()
        for row, comparison in block.above(base).items()
    }
    if not any(comparison.interval for comparison in found.values()):
        return None
    digits = difference_digits([*found.values()], laid.measured)
    entries = {at: _difference(comparison, laid, digits) for at, comparison in found.items()}
    below = (notes.PAIRED, *notes.equal(one.interval for one in found.values()))
    return _above(laid, entries, below)


def _decisions(laid: Layout) -> Table:
    """Show confidence sequences of the differences to the baseline, and what they decide."""
    found = {
        (head, row): decision
        for (head, _), block in laid.blocks.items()
        for row, decision in block.decisions(laid.baseline).items()
    }
    means = [abs(one.interval.mean) for one in found.values() if one.interval]
    digits = laid.measured.digits(min(means, default=1.0))
    entries = {at: _decided(decision, laid, digits) for at, decision in found.items()}
    return _above(laid, entries, notes.sequences(laid.most or 0))


def _decided(decision: Decision, laid: Layout, digits: int) -> TableCell | Estimate:
    said = f"{notes.DECIDED[decision.verdict]} at {decision.n} seeds"
    if decision.verdict in ("fails", "failures"):
        said += f": {' against '.join(f'{failed}/{decision.n}' for failed in decision.failed)}"
    if decision.interval is None:
        return TableCell(said)
    mean, low, high = signed(decision.interval, laid.measured, digits)
    return Estimate(mean, (low, high), (said,))


def _above(
    laid: Layout,
    entries: Mapping[tuple[Key, Key], TableCell | Estimate],
    below: Sequence[str],
) -> Table:
    """Lay out what each arm is above the baseline."""
    base = laid.baseline
    rows = [row for row in laid.names if row[-1] != base]
    columns = [
        column([entries.get((head, row), state_cell("-")) for row in rows]) for head in laid.heads
    ]
    shown = tuple(
        (*map(TableCell, laid.names[row]), *cells)
        for row, *cells in zip(rows, *columns, strict=True)
    )
    heads = laid.heads.values() if laid.across else ["difference"] * len(laid.heads)
    unit = f",{laid.measured.points}" * laid.measured.percent
    title = _title(laid, f"{laid.measured.words}{unit} above {base}")
    return Table(title, (*laid.rows, *heads), shown, len(laid.rows), notes=tuple(below))


def _title(laid: Layout, text: str) -> str:
    return f"{text} by {word(laid.by)}" if laid.by else text


def _digits(groups: Sequence[Group], metric: Metric) -> int:
    means = [group.mean for group in groups if group.mean is not None]
    return metric.digits(max(means) - min(means) if means else 1.0)


def _entry(block: Block, row: Key, digits: int) -> TableCell | Estimate:
    """Give mean and interval of a cell, its failures and its star, or why it has no value."""
    group = block.groups[row]
    if group.mean is None:
        return state_cell("missing" if group.state in RESULTS else group.state)
    interval = group.interval
    ends = [interval.low, interval.high] if interval else []
    low_high = [group.metric.text(value, digits) for value in ends]
    words = []
    if group.failed:
        alone = next(iter(group.outcomes.values())).kind
        words.append(alone if group.n == 1 else f"{group.failed}/{group.n} failed")
    without = len(group.results) - group.n
    words += [f"{without} without result"] * bool(without)
    if late := len(group.arm.late):
        words.append(f"({group.n - group.failed - late} of {group.n - group.failed} reached it)")
    words += ["*"] * (row == block.star)
    crashed = any(result.state == "failed" for result in group.results)
    style = "failed" if crashed else "diverged" if group.failed else "best" * (row == block.star)
    mean = "> " * bool(group.arm.late) + group.metric.text(group.mean, digits)
    return Estimate(mean, (low_high[0], low_high[1]) if ends else None, tuple(words), style)


def _difference(comparison: Comparison, laid: Layout, digits: int) -> TableCell | Estimate:
    if comparison.difference is None:
        return state_cell("-")
    mean, low, high = signed(comparison.difference, laid.measured, digits)
    p = max(comparison.adjusted, comparison.p_flip)
    return Estimate(mean, (low, high), (f"p {p:.3f}",))


def _seed_count(groups: Sequence[Group]) -> str:
    """Say what stands above the only column of values."""
    counts = [group.n for group in groups if group.n]
    seeds = {seed for group in groups for seed in group.outcomes}
    if set(counts) == {1}:
        return f"seed {seeds.pop()}" if len(seeds) == 1 else "one seed"
    return f"{notes.span(counts)} seeds" if counts else ""
