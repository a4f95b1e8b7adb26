"""A metric of one seed, known or bounded, and what several make together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from normbench.results import stats


@dataclass(frozen=True)
class Value:
    """A metric of one seed: bounds that are equal where it is known; whether a run failed for it.

    Args: diverged: whether a run of it did, and counts with the value of guessing.
    """

    low: float
    high: float
    failed: bool = False
    diverged: bool = False

    @property
    def censored(self) -> bool:
        """Tell whether only bounds are known."""
        return self.low != self.high


def mean(values: Sequence[Value]) -> Value:
    """Average the arms of one side."""
    low, high = (stats.mean([getattr(each, end) for each in values]) for end in ("low", "high"))
    failed = any(each.failed for each in values)
    return Value(low, high, failed, any(each.diverged for each in values))


def spread(values: Sequence[Value]) -> Value:
    """Give the largest minus the smallest value of one seed."""
    spread = max(each.high for each in values) - min(each.low for each in values)
    failed = any(each.failed for each in values)
    return Value(spread, spread, failed, any(each.diverged for each in values))
