"""The learning rate over the steps of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Learning rate by step: a linear warm-up, then `constant`, `cosine` to zero, or `step`.

    With T steps, of which W = round(warmup * T) warm up: lr(t) = peak (t + 1) / W for t < W; then,
    with u = (t - W) / (T - W), peak, peak (1 + cos(pi u)) / 2, or peak / 10 from u = 1/2 and
    peak / 100 from u = 3/4.
    """

    kind: str
    peak: float
    steps: int
    warmup: float

    def __call__(self, step: int) -> float:
        """Return the learning rate of `step`, 0 <= step < steps."""
        warm = round(self.warmup * self.steps)
        if step < warm:
            return self.peak * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        if self.kind == "cosine":
            return self.peak * (1 + math.cos(math.pi * done)) / 2
        if self.kind == "step":
            return self.peak * (0.01 if done >= 0.75 else 0.1 if done >= 0.5 else 1.0)
        return self.peak
