"""Two falls to a tenth."""

from __future__ import annotations

from dataclasses import dataclass

from normbench.schedules._base import Schedule


@dataclass(frozen=True)
class Step(Schedule):
    """Two falls to a tenth: peak, peak / 10 from u = 1/2 and peak / 100 from u = 3/4.

    u is the share of the steps after the warm-up.
    """

    def share(self, done: float) -> float:
        """Return the share of the peak."""
        return 0.01 if done >= 0.75 else 0.1 if done >= 0.5 else 1.0
