"""What can be compared of runs: how a metric is called, which way is better, how it is written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

CLOSE = 2.0  # points within which one decimal would hide the differences
SHORT = {
    "accuracy": "test/accuracy",
    "loss": "test/loss",
    "gap": "gap/accuracy",
    "gen_gap": "gen_gap/accuracy",
    "train_acc": "train_eval/accuracy",
    "auc": "val/auc",
    "examples": "target/examples",
    "seconds": "target/seconds",
    "core_seconds": "target/core_seconds",
    "speed": "time/1000_steps",
}  # what the field calls them
NAMES = {
    "gap/accuracy": "train-eval gap",
    "gen_gap/accuracy": "train-test gap",
    "train_eval/accuracy": "training accuracy",
    "probe/saturated": "saturated share",
    "probe/linear_zone": "share in the linear zone",
    "probe/rank": "rank of the last hidden layer",
    "probe/weight_rank": "rank of the first weight",
    "probe/cka": "likeness to the start",
    "val/auc": "area under the validation curve",
    "target/examples": "examples to the target",
    "target/seconds": "seconds to the target",
    "target/core_seconds": "core-seconds to the target",
    "time/1000_steps": "seconds per 1,000 steps",
}
CURVES = ("val/auc", "target/examples", "target/seconds", "target/core_seconds")  # need the rows
DECIMALS = {
    "rank": 1,
    "weight_rank": 1,
    "examples": 0,
    "seconds": 2,
    "core_seconds": 2,
    "1000_steps": 2,
}


@dataclass(frozen=True)
class Metric:
    """A metric of runs.

    Args: name: as in the rows, `test/accuracy/invert`; larger: whether a larger value is better,
    None where neither is, as for a gap; percent: whether it is shown times 100; within: the least
    and the largest value that it can have.
    """

    name: str
    larger: bool | None
    percent: bool
    within: tuple[float, float]

    @property
    def words(self) -> str:
        """Say it as a table does: `test accuracy (invert)`."""
        if self.name in NAMES:
            return NAMES[self.name]
        first, *further = self.name.split("/", 2)
        return " ".join([first, *further[:1], *(f"({word})" for word in further[1:])])

    @property
    def part(self) -> str:
        """Say by which accuracy a run has trained or is stuck: that of `test` or of `val`."""
        return "val" if self.name.startswith(("val/", "target/")) else "test"

    @property
    def title(self) -> str:
        """Say it with its unit."""
        return f"{self.words}, %" if self.percent else self.words

    @property
    def points(self) -> str:
        """Say the unit of a difference after it, if it has one."""
        return " points" if self.percent else ""

    @property
    def scale(self) -> int:
        """Give what its values are multiplied by where they are shown."""
        return 100 if self.percent else 1

    @property
    def quantity(self) -> str:
        """Say what is measured: the second word of `test/accuracy/invert`."""
        return self.name.split("/")[1]

    def digits(self, far: float) -> int:
        """Choose the decimals of values that are `far` from each other: two of percent if close."""
        if self.percent:
            return 2 if self.scale * far < CLOSE else 1
        return DECIMALS.get(self.name.rpartition("/")[2], 3)

    def text(self, value: float, digits: int) -> str:
        """Write a value."""
        return f"{self.scale * value:,.{digits}f}"

    def signed(self, value: float, digits: int) -> str:
        """Write a difference, in points where it is of an accuracy."""
        return f"{self.scale * value + 0.0:+,.{digits}f}"  # + 0.0 takes the sign off a zero

    def rough(self, value: float) -> str:
        """Write the size of a difference with two digits and its unit."""
        return f"{float(f'{self.scale * value:.2g}'):,.10g}{self.points}"


@cache
def of(name: str) -> Metric:
    """Say of a metric what there is to know, by the words of its name."""
    first, _, second = name.partition("/")
    quantity = second.partition("/")[0]
    percent = quantity in ("accuracy", "auc")
    if first == "probe":
        return Metric(name, None, False, (-math.inf, math.inf))
    if "gap" in first:
        return Metric(name, None, percent, (-1.0, 1.0) if percent else (-math.inf, math.inf))
    return Metric(name, percent, percent, (0.0, 1.0 if percent else math.inf))
