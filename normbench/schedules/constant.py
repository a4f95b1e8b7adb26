"""Constant learning rate."""

from __future__ import annotations

from dataclasses import dataclass

from normbench.schedules._base import Schedule


@dataclass(frozen=True)
class Constant(Schedule):
    """Constant learning rate: peak at every step after the warm-up."""

    def share(self, done: float) -> float:
        """Return the share of the peak."""
        return 1.0
