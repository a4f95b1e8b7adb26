"""The learning rate over the steps of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

START, END = 1 / 25, 1 / 25e4  # of onecycle, as shares of the peak


@dataclass(frozen=True)
class Schedule:
    """Learning rate by step: a linear warm-up and then a fall, or one cycle up and down.

    With T steps, of which W = round(warmup * T) warm up: lr(t) = peak (t + 1) / W for t < W. Then,
    with u = (t - W) / (T - W): `constant` peak; `linear` peak (1 - u); `cosine`
    peak (1 + cos(pi u)) / 2; `step` peak, peak / 10 from u = 1/2 and peak / 100 from u = 3/4.
    `onecycle` rises in a half cosine from peak / 25 at t = 0 to peak at t = W - 1, and falls in one
    to peak / 250,000 at t = T - 1; with W = 0 it only falls. The momentum is not cycled.

    Source: onecycle: Smith & Topin 2018, arXiv 1708.07120, with cosines as torch's OneCycleLR.
    """

    kind: str
    peak: float
    steps: int
    warmup: float

    def __call__(self, step: int) -> float:
        """Return the learning rate of `step`, 0 <= step < steps."""
        warm = round(self.warmup * self.steps)
        if self.kind == "onecycle":
            return self.peak * self._cycle(step, warm - 1)
        if step < warm:
            return self.peak * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        if self.kind == "linear":
            return self.peak * (1 - done)
        if self.kind == "cosine":
            return self.peak * (1 + math.cos(math.pi * done)) / 2
        if self.kind == "step":
            return self.peak * (0.01 if done >= 0.75 else 0.1 if done >= 0.5 else 1.0)
        return self.peak

    def _cycle(self, step: int, top: int) -> float:
        """The share of the peak, which is reached at step `top`; -1 is before the first step."""
        if step < top:
            return START + (1 - START) * (1 - math.cos(math.pi * step / top)) / 2
        done = (step - top) / max(1, self.steps - 1 - top)
        return END + (1 - END) * (1 + math.cos(math.pi * done)) / 2
