"""When runs reached the accuracy they aim at: tables and documents of times, censored or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from normbench.results import stats
from normbench.results.stats import MeanTime, Time
from normbench.results.tables import RESULTS, SEED_COLUMNS, Cell, Result, Table, label

ENDS = "a run ends at the first validation that reaches it; seconds are without evaluations"
LATE = "> at least: a run that did not reach it counts with its whole length"


def examples(result: Result) -> Time | None:
    """Give the examples that a run saw until its target, at least its length if it diverged."""
    if not _told(result):
        return None
    seen = result.final.get("target/examples")
    return Time(result.length, False) if seen is None else Time(seen, True)


def seconds(result: Result) -> Time | None:
    """Give the seconds that a run trained until its target, without evaluations."""
    if not _told(result) or result.train_s is None:
        return None
    return Time(result.train_s, result.final.get("target/examples") is not None)


def table(results: Sequence[Result], keys: Sequence[str]) -> Table | None:
    """Lay out examples and seconds to the target by the swept keys; None if no run has one.

    A cell is the mean over seeds, with its 95 % interval from 3 seeds on; behind `>` it is a lower
    bound, for a run that did not reach its target counts with its whole length.
    """
    aimed = [result for result in results if result.target is not None]
    if not aimed:
        return None
    down = list(keys) or [key for key in ("model", "norm") if key in aimed[0].settings]
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in aimed:
        named = (label(k, result.settings[k], down) if k in result.settings else "" for k in down)
        groups.setdefault(tuple(named), []).append(result)
    columns = [_column(list(groups.values()), unit) for unit in UNITS]
    rows = tuple((*map(Cell, name), *cells) for name, *cells in zip(groups, *columns, strict=True))
    late = any(cell.text.startswith(">") for cells in columns for cell in cells)
    return Table(
        f"to {_aim(aimed)}",
        (*down, *UNITS),
        rows,
        len(down),
        notes=(ENDS, *[LATE] * late),
    )


def beneath(table: Table, results: Sequence[Result]) -> Table:
    """Give the table of the seeds of one configuration with rows for the times to its target."""
    aimed = [result for result in _each(results) if result.target is not None]
    if not aimed:
        return table
    rows = [
        (Cell(f"{unit} to {_aim(aimed)}"), *_across(aimed, unit, len(table.head) - 1))
        for unit in UNITS
    ]
    late = any(cell.text.startswith(">") for row in rows for cell in row)
    return replace(table, rows=(*table.rows, *rows), notes=(*table.notes, *[LATE] * late))


def document(results: Sequence[Result]) -> dict[str, object] | None:
    """Give the target of one configuration and its mean times as plain data; None without one."""
    aimed = [result for result in _each(results) if result.target is not None]
    if not aimed:
        return None
    means = {unit: _mean(aimed, unit) for unit in UNITS}
    reached = means["examples"].reached if means["examples"] else 0
    return {
        "accuracy": aimed[0].target,
        "reached": reached,
        **{unit: None if mean is None else _plain(mean) for unit, mean in means.items()},
    }


def _told(result: Result) -> bool:
    return result.target is not None and result.state in RESULTS


def _aim(aimed: Sequence[Result]) -> str:
    levels = {result.target for result in aimed}
    return f"val {100 * (levels.pop() or 0):.10g} %" if len(levels) == 1 else "the target"


def _each(results: Sequence[Result]) -> list[Result]:
    """The runs by seed, each once."""
    return sorted({each.name: each for each in results}.values(), key=lambda each: each.seed)


def _mean(results: Sequence[Result], unit: str) -> MeanTime | None:
    times = [time for each in results if (time := UNITS[unit][0](each))]
    return stats.mean_time(times) if times else None


def _column(groups: Sequence[Sequence[Result]], unit: str) -> list[Cell]:
    """The cells of a column, their numbers below each other."""
    form = UNITS[unit][1]
    means = [_mean(_each(group), unit) for group in groups]
    texts = [
        (_bounded(form(mean.mean), mean.reached == mean.n), *_bounds(mean, form)) if mean else ()
        for mean in means
    ]
    widths = [max(map(len, column)) for column in zip(*filter(None, texts), strict=True)]
    cells = []
    for group, mean, numbers in zip(groups, means, texts, strict=True):
        if mean is None:
            state = "-" if group[0].state in RESULTS else group[0].state
            cells.append(Cell(state, "failed" if state == "failed" else "faint"))
            continue
        middle, low, high = map(str.rjust, numbers, widths)
        text = f"{middle} [{low}, {high}]" if mean.interval else middle
        several = f" ({mean.reached} of {mean.n} reached it)" if mean.reached < mean.n > 1 else ""
        cells.append(Cell(text + several))
    return cells


def _across(results: Sequence[Result], unit: str, columns: int) -> list[Cell]:
    """One row of the table of seeds: each seed or the extremes, then mean and interval."""
    time_of, form = UNITS[unit]
    times = [time_of(each) for each in results]
    shown = times
    if len(times) > SEED_COLUMNS:
        known = sorted(filter(None, times), key=lambda time: (time.value, not time.reached))
        shown = [known[0], known[-1]] if known else []
    cells = [
        Cell(_bounded(form(each.value), each.reached)) if each else Cell("-", "faint")
        for each in shown
    ]
    mean = _mean(results, unit)
    if len(results) > 1 and mean:
        cells.append(Cell(_bounded(form(mean.mean), mean.reached == mean.n)))
        cells.append(Cell(" .. ".join(_bounds(mean, form)) if mean.interval else ""))
    return cells + [Cell("-", "faint")] * (columns - len(cells))


def _bounded(text: str, exact: bool) -> str:
    return text if exact else f"> {text}"


def _bounds(mean: MeanTime, form: Callable[[float], str]) -> tuple[str, str]:
    found = mean.interval
    return (form(found.low), form(found.high)) if found else ("", "")


def _in_seconds(value: float) -> str:
    return f"{value:,.{2 if value < 10 else 1}f}"


def _plain(mean: MeanTime) -> dict[str, object]:
    found = mean.interval
    return {
        "mean": mean.mean,
        "interval": [found.low, found.high] if found else None,
        "at_least": mean.reached < mean.n,
    }


UNITS: dict[str, tuple[Callable[[Result], Time | None], Callable[[float], str]]] = {
    "examples": (examples, "{:,.0f}".format),
    "seconds": (seconds, _in_seconds),
}
