"""One cycle up and down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from normbench.schedules._base import Schedule

START, END = 1 / 25, 1 / 25e4  # as shares of the peak


@dataclass(frozen=True)
class OneCycle(Schedule):
    """One cycle: up in a half cosine during the warm-up, down in another one.

    From peak / 25 at t = 0 to the peak at t = W - 1, and to peak / 250,000 at t = T - 1, of T steps
    W being of the warm-up; with W = 0 it only falls. The momentum is not cycled.

    Source: Smith & Topin 2018, arXiv 1708.07120, with cosines as torch's OneCycleLR.
    """

    warms_up: ClassVar[bool] = False

    def rate(self, step: int, steps: int, warm: int, peak: float) -> float:
        """Return the learning rate of a step."""
        top = warm - 1  # the step of the peak; -1 is before the first step
        if step < top:
            share = START + (1 - START) * (1 - math.cos(math.pi * step / top)) / 2
        else:
            done = (step - top) / max(1, steps - 1 - top)
            share = END + (1 - END) * (1 + math.cos(math.pi * done)) / 2
        return peak * share
