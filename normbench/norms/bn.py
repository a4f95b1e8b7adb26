"""Batch normalization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from normbench.norms._batch import BatchNorm
from normbench.norms._batch_moments import centre
from normbench.norms._statistics import BatchStatistics
from normbench.norms._sums import at_least_float32, by_moments, per_position
from normbench.parts.options import option


@dataclass(frozen=True)
class BN(BatchStatistics):
    """Batch normalization: each channel by its mean and variance over the samples of a batch.

    y = (x - mean) / sqrt(var + eps) * weight + bias;  x: (N, C, ...); mean, var: (C,) over samples
    and positions, var biased; weight, bias: (C,). Evaluation takes running_mean and running_var,
    which follow mean and the unbiased variance.

    Args: eps: added to the variance. momentum: weight of the new value in the running statistics,
        per optimizer step, or per micro-batch with momentum_per=forward; null is the plain average
        of all steps. affine: learn both, neither, or `weight` or `bias` alone. norm_batch: samples
        behind one statistic; `worker` one worker's batch, `global` that of all workers, a number
        less than a worker's share contiguous chunks of it, more the batches of several workers.
        start: of the running statistics; `standard` is mean 0 and variance 1, `first` the values of
        the first batch. stop_gradient: take mean and var for constants in the backward pass, so
        that the gradient of x is that of y times weight / sqrt(var + eps).
    Raises: NormError in training if a statistic has a single value.
    Limits: noisy where a statistic covers few values; a sample's output depends on its batch;
        evaluation is as good as the running statistics fit the last weights. Where the mean is
        large, float32 is off by up to 5e-7 |mean| / deviation.
    Source: Ioffe & Szegedy 2015, arXiv 1502.03167. The running variance is unbiased, as there; its
        moving average is torch's. Two values a channel always become -weight and +weight.
    """

    aliases: ClassVar[tuple[str, ...]] = ("batch",)
    state: ClassVar[str] = "running_mean running_var num_batches_tracked"

    momentum: float | None = option(0.1, low=0, high=1)  # type: ignore[assignment]
    affine: bool | str = option(True, choices=("weight", "bias"))  # type: ignore[assignment]
    start: str = option("standard", choices=("standard", "first"))
    stop_gradient: bool = False

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its running statistics."""
        kind = ConstantStatistics if self.stop_gradient else BatchNorm
        return kind(channels, dims, self, self.eps, self.start == "first")


class ConstantStatistics(BatchNorm):
    """Batch normalization whose gradient does not flow through mean and variance."""

    by_kernel = False

    def normalize(self, x: Tensor, times: int, workers: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Normalize by the moments of the set as constants."""
        wide = at_least_float32(x)
        found = centre(wide.detach(), workers)
        left = wide - per_position(found.shift, x.dim() - 2)
        y = by_moments(left, found.mean, found.var, *self.gains(times), self.eps)
        var = found.var * (found.values / (found.values - 1))
        return y, (found.shift + found.mean, var)
