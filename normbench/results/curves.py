"""What a validation curve says in one number: its area, and when it reached a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Validation:
    """One validation of a run: examples and seconds of training until it, and its accuracy.

    `busy`: CPU seconds per second of wall time until it, None where they were not recorded.
    """

    examples: float
    seconds: float | None
    accuracy: float
    busy: float | None = None


def area(curve: Sequence[Validation]) -> float | None:
    """Give the mean accuracy over the examples seen, the validations joined by straight lines.

    It is the area under the curve divided by its length; None for fewer than 2 validations.
    """
    if len(curve) < 2:
        return None
    total = sum(
        (right.examples - left.examples) * (left.accuracy + right.accuracy) / 2
        for left, right in pairwise(curve)
    )
    return total / (curve[-1].examples - curve[0].examples)


def first(curve: Sequence[Validation], target: float) -> Validation | None:
    """Give the first validation that reaches a target, the one before training left out."""
    return next((at for at in curve if at.examples and at.accuracy >= target), None)
