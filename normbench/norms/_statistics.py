"""The options of norms with batch statistics in training and running ones in evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from normbench.norms._base import Norm
from normbench.parts.options import option


@dataclass(frozen=True)
class MovingAverage(Norm):
    """The base of norms whose running statistics are moving averages.

    Args: momentum: weight of a step's new values in the running statistics. momentum_per: `step`
        gives each of the k micro-batches of a step the weight 1 - (1 - momentum)^(1/k), so that
        the old values keep 1 - momentum after it, as without accumulation; `forward` gives each
        the whole momentum, as torch's layers do.
    """

    momentum: float = option(0.1, low=0, high=1)
    momentum_per: str = option("step", choices=("step", "forward"))

    def resolve(self, accumulate: int) -> Norm:
        """Return the norm with the momentum of a micro-batch, of which a step has `accumulate`."""
        if self.momentum is None or self.momentum_per == "forward" or accumulate == 1:
            return self
        share = 1 - (1 - self.momentum) ** (1 / accumulate)
        return replace(self, momentum=share, momentum_per="forward")


@dataclass(frozen=True)
class RunningStatistics(MovingAverage):
    """The base of norms that take statistics of a batch in training, running ones in evaluation.

    Args: eps: added to the variance. affine: learn weight and bias.
    """

    bias: ClassVar[bool] = False
    uses_batch: ClassVar[bool] = True
    running: ClassVar[bool] = True
    parameters: ClassVar[str] = "2 C"
    state: ClassVar[str] = "running_mean running_var steps"

    eps: float = option(1e-5, low=0)
    affine: bool = True


@dataclass(frozen=True)
class BatchStatistics(RunningStatistics):
    """The base of those that let the run choose whose samples share a statistic.

    Args: norm_batch: samples behind one statistic; `worker` one worker's batch, `global` that of
        all workers, a number less than a worker's share contiguous chunks of it, more the batches
        of several workers.
    """

    norm_batch: int | str = option("worker", low=1, choices=("worker", "global"))
