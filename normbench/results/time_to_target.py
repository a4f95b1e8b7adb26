"""Times to a target accuracy, censored where it was not reached: tables and documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from normbench.results import notes, stats
from normbench.results.groups import RESULTS, Key, Result, labels_of
from normbench.results.seeds import SEED_COLUMNS
from normbench.results.stats import MeanTime, Time
from normbench.results.tables import Estimate, Table, TableCell, column, filled, state_cell

ENDS = "a run ends at the first validation that reaches it; seconds are without evaluations"
GUESSED = "the target is at most 5 points above chance, which a constant answer has: {} %"


def examples(result: Result) -> Time | None:
    """Give the examples that a run saw until its target, at least its length if it diverged."""
    if not _has_time(result):
        return None
    seen = result.final.get("target/examples")
    return Time(result.length, False) if seen is None else Time(seen, True)


def seconds(result: Result) -> Time | None:
    """Give the seconds that a run trained until its target, without evaluations."""
    if not _has_time(result) or result.train_s is None:
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
    groups: dict[Key, list[Result]] = {}
    for result in aimed:
        groups.setdefault(labels_of(result.settings, down, down), []).append(result)
    columns = [column([_entry(group, unit) for group in groups.values()]) for unit in UNITS]
    rows = tuple(
        (*map(TableCell, name), *cells) for name, *cells in zip(groups, *columns, strict=True)
    )
    notes = (ENDS, *_late(rows), *_guessed(aimed))
    return Table(f"to {_target(aimed)}", (*down, *UNITS), rows, len(down), notes=notes)


def beneath(table: Table, results: Sequence[Result]) -> Table:
    """Give the table of the seeds of one configuration with rows for the times to its target."""
    aimed = [result for result in _by_seed(results) if result.target is not None]
    if not aimed:
        return table
    rows = tuple(
        (TableCell(f"{unit} to {_target(aimed)}"), *_across(aimed, unit, len(table.head) - 1))
        for unit in UNITS
    )
    return replace(
        table, rows=(*table.rows, *rows), notes=(*table.notes, *_late(rows), *_guessed(aimed))
    )


def document(results: Sequence[Result]) -> dict[str, object] | None:
    """Give the target of one configuration and its mean times as plain data; None without one."""
    aimed = [result for result in _by_seed(results) if result.target is not None]
    if not aimed:
        return None
    means = {unit: _mean(aimed, unit) for unit in UNITS}
    return {
        "accuracy": aimed[0].target,
        "reached": means["examples"].reached if means["examples"] else 0,
        **{unit: None if mean is None else _plain(mean) for unit, mean in means.items()},
    }


def _has_time(result: Result) -> bool:
    return result.target is not None and result.state in RESULTS


def _target(aimed: Sequence[Result]) -> str:
    levels = {result.target for result in aimed}
    return f"val {100 * (levels.pop() or 0):.10g} %" if len(levels) == 1 else "the target"


def _by_seed(results: Sequence[Result]) -> list[Result]:
    """Sort the runs by seed, each once."""
    once = {result.name: result for result in results}
    return sorted(once.values(), key=lambda result: result.seed)


def _late(rows: Sequence[Sequence[TableCell]]) -> list[str]:
    return [notes.LATE] * any(cell.text.startswith(">") for row in rows for cell in row)


def _guessed(aimed: Sequence[Result]) -> list[str]:
    """Say that a target is one which a run reaches that has learned nothing."""
    levels = {
        f"{100 * result.chance('val'):.1f}"
        for result in aimed
        if stats.outcome(result.target, result.chance("val")).failed
    }
    return [GUESSED.format(" or ".join(sorted(levels)))] if levels else []


def _mean(results: Sequence[Result], unit: str) -> MeanTime | None:
    times = [time for result in results if (time := UNITS[unit][0](result))]
    return stats.mean_time(times) if times else None


def _entry(group: Sequence[Result], unit: str) -> TableCell | Estimate:
    mean = _mean(_by_seed(group), unit)
    if mean is None:
        return state_cell("-" if group[0].state in RESULTS else group[0].state)
    text, bounds = _texts(mean, unit)
    several = mean.reached < mean.n > 1
    return Estimate(text, bounds, (f"({mean.reached} of {mean.n} reached it)",) * several)


def _across(results: Sequence[Result], unit: str, columns: int) -> list[TableCell]:
    """Make one row of the table of seeds: each seed or the extremes, then mean and interval."""
    time_of, form = UNITS[unit]
    times = [time_of(result) for result in results]
    if len(times) > SEED_COLUMNS:
        known = sorted(filter(None, times), key=lambda time: (time.value, not time.reached))
        times = [known[0], known[-1]] if known else []
    cells = [
        TableCell(_bounded(form(time.value), time.reached)) if time else state_cell("-")
        for time in times
    ]
    mean = _mean(results, unit)
    if len(results) > 1 and mean:
        text, bounds = _texts(mean, unit)
        cells += [TableCell(text), TableCell(" .. ".join(bounds or ()))]
    return filled(cells, columns)


def _texts(mean: MeanTime, unit: str) -> tuple[str, tuple[str, str] | None]:
    """Write a mean, behind `>` where it is a lower bound, and the bounds of its interval."""
    form, interval = UNITS[unit][1], mean.interval
    bounds = (form(interval.low), form(interval.high)) if interval else None
    return _bounded(form(mean.mean), mean.reached == mean.n), bounds


def _bounded(text: str, exact: bool) -> str:
    return text if exact else f"> {text}"


def _in_seconds(value: float) -> str:
    return f"{value:,.{2 if value < 10 else 1}f}"


def _plain(mean: MeanTime) -> dict[str, object]:
    interval = mean.interval
    return {
        "mean": mean.mean,
        "interval": [interval.low, interval.high] if interval else None,
        "at_least": mean.reached < mean.n,
    }


UNITS: dict[str, tuple[Callable[[Result], Time | None], Callable[[float], str]]] = {
    "examples": (examples, "{:,.0f}".format),
    "seconds": (seconds, _in_seconds),
}
