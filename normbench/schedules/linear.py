"""Linear fall to zero."""

from __future__ import annotations

from dataclasses import dataclass

from normbench.schedules._base import Schedule


@dataclass(frozen=True)
class Linear(Schedule):
    """Linear fall to zero: peak (1 - u), u being the share of the steps after the warm-up."""

    def share(self, done: float) -> float:
        """Return the share of the peak."""
        return 1 - done
