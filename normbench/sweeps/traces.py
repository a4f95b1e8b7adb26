"""Reads what is seldom asked of a run: its validation curve, its clock, its images. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from normbench.results import curves, depth
from normbench.results.curves import Validation
from normbench.results.groups import RESULTS, Result
from normbench.results.images import Right
from normbench.rows import TimeRow, Value, from_json
from normbench.runs import evaluations
from normbench.runs.reader import METRICS, METRICS_BYTES, TIMING, read_rows
from normbench.runtime import storage


def with_curve(result: Result, metric: str, target: float | None) -> Result:
    """Add a metric that is read off the validation curve to what a run came to.

    Args: metric: of `metrics.CURVES`; target: accuracy to reach, by default that of the run.
    Raises: FileRefused if the rows are damaged.
    """
    if result.state not in RESULTS:
        return result
    curve = validations(Path(result.directory))
    if metric == "val/auc":
        area = curves.area(curve)
        return replace(result, final={**result.final, metric: area})
    goal = result.target if target is None else target
    if goal is None or not curve:
        return result
    reached, last = curves.first(curve, goal), curve[-1]
    value = _time(result, metric, reached or last)
    if value is None:
        return result
    if reached is None:
        return replace(result, target=goal, waited={metric: value})
    return replace(result, target=goal, final={**result.final, metric: value})


def validations(folder: Path) -> list[Validation]:
    """Read the validation curve of a run that ended, with the seconds of training until each point.

    Raises: FileRefused if the rows are damaged, or lack the last one.
    """
    clocks = {row.step: row.values for row in times(folder)}
    found, rows = [], read_rows(folder)
    if not rows or rows[-1].kind != "end":
        raise storage.damaged(folder / METRICS, "has been cut off: its run ended, its rows do not")
    for row in rows:
        accuracy = row.values.get("val/accuracy")
        if row.kind == "val" and isinstance(accuracy, int | float):
            clock = clocks.get(row.step, {} if row.step else {"train_s": 0.0})
            spent, busy = _number(clock.get("train_s")), _number(clock.get("cores"))
            found.append(Validation(row.examples, spent, accuracy, busy))
    return found


def profile(folder: Path, quantity: str, step: int) -> list[float]:
    """Read a quantity of the layers of a run, from the input on; empty where it has no such row.

    Args: step: -1 is the last that was recorded.
    Raises: FileRefused if the rows are damaged.
    """
    rows = [row for row in read_rows(folder) if row.kind == "layers" and step in (-1, row.step)]
    return depth.profile(rows[-1].values, quantity) if rows else []


def times(folder: Path) -> Iterator[TimeRow]:
    """Read the rows of times of a run.

    Raises: FileRefused if a line is not a row.
    """
    path = folder / TIMING
    for number, line in enumerate(storage.read_bytes(path, METRICS_BYTES).split(b"\n")[:-1], 1):
        try:
            row = from_json(line.decode())
        except ValueError as error:
            raise storage.damaged(path, f"line {number} is not a row: {error}") from None
        if isinstance(row, TimeRow):
            yield row


def right(result: Result, metric: str) -> Right | None:
    """Read which test images a run got right, None where that was not kept.

    Args: metric: the accuracy on these images.
    Raises: FileRefused if the file is damaged.
    """
    accuracy = result.final.get(metric)
    bits = evaluations.right(
        Path(result.directory), result.evaluation, metric.removeprefix("test/accuracy").lstrip("/")
    )
    if not bits or not accuracy:
        return None
    count = round(int.from_bytes(bits, "big").bit_count() / accuracy)
    return Right(bits, count) if 0 <= 8 * len(bits) - count < 8 else None


def core_seconds(result: Result) -> float | None:
    """Tell what a run cost: its CPU time with evaluations, of all workers.

    Runs of before cpu_s was recorded: their wall time, times threads and workers.
    Raises: FileRefused if a line of its times is not a row.
    """
    if result.state not in RESULTS:
        return None
    if result.cpu_s is not None:
        return result.cpu_s * _count(result, "gpus")
    walls = [_number(row.values.get("wall_s")) for row in times(Path(result.directory))]
    known = [wall for wall in walls if wall is not None]
    return max(known) * _count(result, "threads") * _count(result, "gpus") if known else None


def _time(result: Result, metric: str, when: Validation) -> float | None:
    """Give examples, seconds or core-seconds until a validation, None where no clock was read."""
    if metric == "target/examples":
        return when.examples
    if when.seconds is None:
        return None
    if metric != "target/core_seconds":
        return when.seconds
    cores = _count(result, "threads") if when.busy is None else when.busy
    return when.seconds * cores * _count(result, "gpus")


def _count(result: Result, key: str) -> int:
    return int(str(result.settings.get(key, 1)))


def _number(value: Value) -> float | None:
    return value if isinstance(value, int | float) else None
