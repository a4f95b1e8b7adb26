"""The steps of several runs in one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from normbench.engine.loader import Batch
    from normbench.engine.train import TrainStep


class Lanes:
    """Makes the steps of several runs that are alike, each with the bits of the run alone.

    Args: steps: those of the runs, which are numbered by their place.
    """

    def __init__(self, steps: Sequence[TrainStep]) -> None:
        self.steps = steps

    def __call__(self, due: Sequence[tuple[int, Batch, float]]) -> dict[int, Exception]:
        """Make a step of each run that is named, with its batch and learning rate.

        Returns: the errors of the runs whose own step has failed.
        """
        failed = {}
        for number, batch, lr in due:
            try:
                self.steps[number](batch, lr)
            except Exception as error:  # of this run alone
                failed[number] = error
        return failed

    def without(self, number: int) -> None:
        """Leave out a run that has ended."""
