"""The rows of a run: one recorded line each, a measurement at a step, and its JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

KINDS = ("pretrain", "train", "val", "layers", "test", "end")
Value = float | int | str | None


@dataclass(frozen=True)
class Row:
    """One measurement of a run; equal for equal runs, so it holds no times.

    Args: kind: `pretrain` (of an initializer that trains), `train`, `val`, `layers` (of
        `diagnose=full`), `test` or `end`. step: optimizer updates so far, of the pre-training in
        its rows, which counts by itself. examples: training examples seen so far, likewise. epoch:
        passes over the training set so far, likewise. values: numbers by TensorBoard tag
        (`train/loss`), and words such as the state of an `end` row.
    """

    kind: str
    step: int
    examples: int
    epoch: float
    values: Mapping[str, Value]


@dataclass(frozen=True)
class TimeRow:
    """What differs between equal runs at a step: wall time, examples per second, memory peak."""

    step: int
    examples: int
    values: Mapping[str, Value]
    kind: str = "time"


class Halt(NamedTuple):
    """Stands among the rows of a run where its state is whole: there it can be kept, or stopped.

    Args: state: gives tensors, by name, of whoever has halted, beside those of the model.
    """

    state: Callable[[], dict[str, Any]] = dict


def to_json(row: Row | TimeRow) -> str:
    """Write a row as one line of JSON without a newline; NaN and infinity become null.

    Equal rows give equal text: values stand in the order of their names, floats as `repr`.
    """
    head: dict[str, Any] = {"kind": row.kind, "step": row.step, "examples": row.examples}
    if isinstance(row, Row):
        head["epoch"] = row.epoch
    for name in sorted(row.values):
        head[name] = finite(row.values[name])
    return _ENCODER.encode(head)


def from_json(line: str) -> Row | TimeRow:
    """Read a row back from its line.

    Raises: ValueError if the line is not a row as `to_json` writes them.
    """
    try:
        fields = json.loads(line)
    except RecursionError:
        raise ValueError("is nested too deep") from None
    if not isinstance(fields, dict):
        raise ValueError("is not a JSON object")
    kind = fields.pop("kind", None)
    step, examples = _count(fields, "step"), _count(fields, "examples")
    if kind == "time":
        return TimeRow(step, examples, _values(fields))
    if kind not in KINDS:
        raise ValueError(f"has none of the kinds {', '.join(KINDS)}, time")
    epoch = fields.pop("epoch", None)
    if type(epoch) not in (int, float) or not 0 <= epoch < math.inf:
        raise ValueError("epoch is not a number from 0")
    return Row(kind, step, examples, epoch, _values(fields))


def finite(value: Value) -> Value:
    """Return `value`, or None in place of NaN and infinity, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


_ENCODER = json.JSONEncoder(allow_nan=False)


def _count(fields: dict[str, Any], name: str) -> int:
    count = fields.pop(name, None)
    if type(count) is not int or count < 0:
        raise ValueError(f"{name} is not an integer from 0")
    return count


def _values(fields: dict[str, Any]) -> dict[str, Value]:
    for name, value in fields.items():
        if type(value) not in (int, float, str, type(None)) or finite(value) != value:
            raise ValueError(f"{name[:40]!r} is not a finite number, word or null")
    return fields
