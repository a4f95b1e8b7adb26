"""Tables of a metric over the cells of a sweep, and over the seeds of one configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from normbench.errors import shown
from normbench.results import stats
from normbench.results.groups import (
    RESULTS,
    Group,
    Key,
    Result,
    further_tests,
    is_percentage,
    labels_of,
    metric_name,
    values_of,
)
from normbench.results.tables import Estimate, Table, TableCell, column, filled, state_cell

COLUMNS = 6  # values of a key up to which they stand side by side
SEED_COLUMNS = 5  # seeds up to which each has a column
LISTED = 5  # messages of failed runs under a table
CLOSE = 2.0  # points within which one decimal would hide the differences
STAR = "* better than every other in its column (Holm, 5 %)"


def table(results: Sequence[Result], keys: Sequence[str], metric: str = "test/accuracy") -> Table:
    """Lay out a metric by the swept keys: the last one across where it has at most 6 values.

    A cell is the mean over seeds in percent, with its 95 % interval from 3 seeds on. Diverged
    runs count at chance level. The star stands where a cell is better than every other in its
    column (paired t tests on the seeds in common, Holm, 5 %).

    Args: keys: the swept keys without the seed; with one key its values are rows, with none
    there is one row. metric: where it is that of a further test, only runs that have it are shown.
    Raises: ValueError if two runs of one cell have the same seed: a key is missing.
    """
    for test in metric.split("/", 2)[2:]:
        results = [result for result in results if test in result.tests]
    last = list(keys[-1:])
    wide = len(keys) > 1 and len({values_of(run.settings, last) for run in results}) <= COLUMNS
    across, down = (last, list(keys[:-1])) if wide else ([], list(keys))
    down = down or [key for key in ("model", "norm") if results and key in results[0].settings]
    heads, names, cells = _grid(results, across, down, keys)
    columns = [[Group(cells.get((row, head), []), metric) for row in names] for head in heads]
    groups = [group for column in columns for group in column]
    texts = [_column(column, metric, _digits(groups, metric)) for column in columns]
    rows = tuple(
        (*map(TableCell, name), *cells) for name, *cells in zip(names.values(), *texts, strict=True)
    )
    head = (*down, *(heads.values() if wide else [_seed_count(groups)] * len(heads)))
    starred = any(cell.text.endswith("*") for cells in texts for cell in cells)
    notes = [STAR] * starred + _notes(groups, metric, keys)
    title = f"{metric_name(metric)}, %" if is_percentage(metric) else metric_name(metric)
    return Table(title, head, rows, len(down), frozenset(), tuple(notes))


def seeds(results: Sequence[Result]) -> Table:
    """Lay out the seeds of one configuration: test accuracies and train-eval gap, in percent.

    Each seed has a column up to 5 seeds, beyond that the lowest and the highest value have one.
    """
    metrics = ("test/accuracy", *further_tests(results), "gap/accuracy")
    accuracy, *_ = groups = [Group(results, metric) for metric in metrics]
    single = [f"seed {result.seed}" for result in accuracy.results]
    head = ["", *(single if len(single) <= SEED_COLUMNS else ["lowest", "highest"])]
    if len(single) > 1:
        head += ["mean", "95 % interval"]
    values = [100 * value for value in accuracy.values]
    digits = 2 if values and max(values) - min(values) < CLOSE else 1
    forms = [f".{digits}f"] * (len(groups) - 1) + [f"+.{digits}f"]
    rows = tuple(
        (TableCell(metric_name(group.metric)), *_across(group, form, len(head) - 1))
        for group, form in zip(groups, forms, strict=True)
    )
    said = ("mean",) if len(single) > 1 else ("mean", "too few")  # the columns say it
    notes = [note for note in _notes([accuracy], accuracy.metric, []) if not note.startswith(said)]
    return Table("", tuple(head), rows, 1, frozenset(range(1, len(head))), tuple(notes))


def _grid(
    results: Sequence[Result], across: Sequence[str], down: Sequence[str], keys: Sequence[str]
) -> tuple[dict[Key, str], dict[Key, Key], dict[tuple[Key, Key], list[Result]]]:
    """Give the heads of the columns, the names of the rows, and the runs by row and column."""
    heads: dict[Key, str] = {}
    names: dict[Key, Key] = {}
    cells: dict[tuple[Key, Key], list[Result]] = {}
    for result in results:
        row, head = values_of(result.settings, down), values_of(result.settings, across)
        heads[head] = "".join(labels_of(result.settings, across, keys))
        names[row] = labels_of(result.settings, down, keys)
        cells.setdefault((row, head), []).append(result)
    return heads, names, cells


def _digits(groups: Sequence[Group], metric: str) -> int:
    if not is_percentage(metric):
        return 3
    means = [100 * group.mean for group in groups if group.mean is not None]
    return 2 if means and max(means) - min(means) < CLOSE else 1


def _column(groups: Sequence[Group], metric: str, digits: int) -> list[TableCell]:
    best = None
    if not metric.startswith("gap/"):
        values = {
            place: {seed: outcome.value for seed, outcome in group.outcomes.items()}
            for place, group in enumerate(groups)
        }
        best = stats.best_of(values, largest=is_percentage(metric))
    return column([_entry(group, digits, place == best) for place, group in enumerate(groups)])


def _entry(group: Group, digits: int, best: bool) -> TableCell | Estimate:
    """Give mean and interval of a cell, its failures and its star, or why it has no value."""
    if group.mean is None:
        return state_cell("missing" if group.state in RESULTS else group.state)
    scale = 100 if is_percentage(group.metric) else 1

    def text(value: float) -> str:
        return f"{value * scale:.{digits}f}"

    bounds = (text(group.interval.low), text(group.interval.high)) if group.interval else None
    without = [result.state for result in group.results if result.seed not in group.outcomes]
    words = []
    if group.diverged:
        words.append("diverged" if len(group.values) == 1 else f"{group.diverged} diverged")
    words += [f"{without.count(state)} {state}" for state in dict.fromkeys(without)]
    words += ["*"] * best
    style = "failed" if "failed" in without else "diverged" if group.diverged else "best" * best
    return Estimate(text(group.mean), bounds, tuple(words), style)


def _across(group: Group, form: str, columns: int) -> list[TableCell]:
    """Make one row of the table of seeds: each seed or the extremes, then mean and interval."""

    def points(value: float) -> str:
        text = format(100 * value, form)
        return text.lstrip("+-") if float(text) == 0 else text

    if len(group.results) > SEED_COLUMNS:
        extremes = (min(group.values), max(group.values)) if group.values else ()
        cells = [TableCell(points(value)) for value in extremes]
    else:
        cells = [_seed_cell(result, group, points) for result in group.results]
    if len(group.results) > 1 and group.mean is not None:
        interval = group.interval if any(group.values) else None
        cells.append(TableCell(points(group.mean)))
        bounds = f"{points(interval.low)} .. {points(interval.high)}" if interval else ""
        cells.append(TableCell(bounds))
    return filled(cells, columns)


def _seed_cell(result: Result, group: Group, points: Callable[[float], str]) -> TableCell:
    outcome = group.outcomes.get(result.seed)
    if outcome is None:
        return state_cell("missing" if result.state in RESULTS else result.state)
    if outcome.diverged:
        return TableCell("diverged", "diverged")
    return TableCell(points(outcome.value))


def _seed_count(groups: Sequence[Group]) -> str:
    """Say what stands above the only column of values."""
    counts = [len(group.values) for group in groups if group.values]
    seeds = {seed for group in groups for seed in group.outcomes}
    if set(counts) == {1}:
        return f"seed {seeds.pop()}" if len(seeds) == 1 else "one seed"
    return f"{_span(counts)} seeds" if counts else ""


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _notes(groups: Sequence[Group], metric: str, keys: Sequence[str]) -> list[str]:
    """Say what the intervals are over, what stands in for diverged runs, and what failed."""
    counts = [len(group.values) for group in groups if group.values]
    enough = [count for count in counts if count >= stats.FEWEST]
    few = [count for count in counts if count < stats.FEWEST]
    notes = [f"mean and 95 % interval of {_span(enough)} seeds"] if enough else []
    if few:
        where = f" in {len(few)} of {len(counts)} cells" if enough else ""
        notes.append(f"too few seeds for an interval{where}: {_span(few)}, {stats.FEWEST} give one")
    outcomes = [outcome for group in groups for outcome in group.outcomes.values()]
    scale, digits = (100, 1) if is_percentage(metric) else (1, 3)
    levels = {f"{outcome.value * scale:.{digits}f}" for outcome in outcomes if outcome.diverged}
    if levels:
        notes.append(f"diverged runs count as chance, {' or '.join(sorted(levels))}")
    return notes + _failures([result for group in groups for result in group.results], keys)


def _failures(results: Sequence[Result], keys: Sequence[str]) -> list[str]:
    """Give the first line of the message of each run that failed or does not apply."""
    lines: dict[str, None] = {}
    for result in results:
        if result.state in ("failed", "does not apply"):
            where = [f"{result.state}:", *filter(None, labels_of(result.settings, keys, keys))]
            if result.state == "failed":
                where.append(f"seed {result.seed}")
            why = (result.message or "no message").strip().partition("\n")[0]
            lines[f"{'  '.join(where)}: {shown(why)}"] = None
    more = len(lines) - LISTED
    return [*lines][:LISTED] + ([f"and {more} more of this kind"] if more > 0 else [])
