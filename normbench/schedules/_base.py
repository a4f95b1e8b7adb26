"""What every schedule shares: the linear warm-up, and the fall after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from normbench.errors import ScheduleError
from normbench.parts.options import Options


@dataclass(frozen=True)
class Schedule(Options):
    """The options of a schedule, and the learning rate at each step.

    With T steps, of which W warm up: lr(t) = peak (t + 1) / W for t < W, then
    lr(t) = peak share(u) with u = (t - W) / (T - W), 0 <= u < 1.
    """

    error: ClassVar[type[ScheduleError]] = ScheduleError
    warms_up: ClassVar[bool] = True  # not part of a cycle: has a least number of steps

    def over(self, steps: int, peak: float, warmup: float) -> Callable[[int], float]:
        """Return the learning rate by step, 0 <= step < steps; `warmup` is a share of them."""
        warm = round(warmup * steps)
        return lambda step: self.rate(step, steps, warm, peak)

    def rate(self, step: int, steps: int, warm: int, peak: float) -> float:
        """Return the learning rate of a step, `warm` being the steps of the warm-up."""
        if step < warm:
            return peak * (step + 1) / warm
        return peak * self.share((step - warm) / max(1, steps - warm))

    def share(self, done: float) -> float:
        """Return the share of the peak when the share `done` of the steps after warm-up is over."""
        raise NotImplementedError
