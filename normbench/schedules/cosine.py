"""Cosine fall to zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

from normbench.schedules._base import Schedule


@dataclass(frozen=True)
class Cosine(Schedule):
    """Cosine fall to zero: peak (1 + cos(pi u)) / 2, u the share of the steps after the warm-up.

    Source: Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts.
    """

    def share(self, done: float) -> float:
        """Return the share of the peak."""
        return (1 + math.cos(math.pi * done)) / 2
