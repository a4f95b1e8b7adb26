"""Mean-only batch normalization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from normbench.norms._batch import BatchLayer
from normbench.norms._batch_moments import totals
from normbench.norms._statistics import MovingAverage
from normbench.norms._sums import at_least_float32, per_position
from normbench.parts.options import option


@dataclass(frozen=True)
class Mean(MovingAverage):
    """Mean-only batch normalization: subtracts from each channel its mean over a batch.

    y = x - mean + bias;  x: (N, C, ...); mean: (C,) over samples and positions; bias: (C,).
    Evaluation takes running_mean, which follows mean. Made for `wn+mean`.

    Args: momentum: weight of the new value in the running mean, per optimizer step, or per
        micro-batch with momentum_per=forward. affine: learn the bias. norm_batch: samples behind
        one mean; `worker` one worker's batch, `global` that of all workers, a number the batches of
        several workers. A batch is not cut into chunks.
    Raises: NormError in training if a mean has a single value.
    Limits: leaves variances as they are: meant beside `wn`. Where the mean is large, float32 is off
        by up to 5e-7 |mean|.
    Source: Salimans & Kingma 2016, arXiv 1602.07868, section 4.
    """

    aliases: ClassVar[tuple[str, ...]] = ("mean-only-bn",)
    bias: ClassVar[bool] = False
    uses_batch: ClassVar[bool] = True
    running: ClassVar[bool] = True
    parameters: ClassVar[str] = "C"
    state: ClassVar[str] = "running_mean steps"

    affine: bool = True
    norm_batch: int | str = option("worker", low=1, choices=("worker", "global"))

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its running mean."""
        return MeanOnlyBatchNorm(channels, dims, self)


class MeanOnlyBatchNorm(BatchLayer):
    """Subtracts the mean over samples and positions."""

    learned: ClassVar[Mapping[str, float]] = {"bias": 0.0}
    tracked: ClassVar[Mapping[str, float]] = {"running_mean": 0.0}
    chunks: ClassVar[bool] = False
    variance: ClassVar[str | None] = None

    def normalize(self, x: Tensor, times: int, workers: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Subtract the mean of the set, with gradient."""
        wide = at_least_float32(x)
        total, values = totals(wide, workers)
        mean = total / values
        return self._centred(wide, mean), (mean.detach(),)

    def evaluate(self, x: Tensor) -> Tensor:
        """Subtract the running mean."""
        return self._centred(at_least_float32(x), self.running_mean).to(x.dtype)

    def _centred(self, x: Tensor, mean: Tensor) -> Tensor:
        return x - per_position(mean if self.bias is None else mean - self.bias, x.dim() - 2)
