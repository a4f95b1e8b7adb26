"""Batch-instance normalization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench.errors import NormError
from normbench.norms._base import check_count, check_rank
from normbench.norms._batch import BatchLayer, repeated
from normbench.norms._batch_moments import batch_norm
from normbench.norms._statistics import BatchStatistics
from normbench.norms._sums import at_least_float32, by_moments, group_norm


@dataclass(frozen=True)
class BIN(BatchStatistics):
    """Batch-instance normalization: a learned mixture of batch and instance normalization.

    y = (gate * BN(x) + (1 - gate) * IN(x)) * weight + bias;  BN, IN: (x - mean) / sqrt(var + eps),
    mean, var: (C,) over samples and positions for BN, (N, C) over positions for IN, var biased;
    x: (N, C, H, W) or (N, C, L); gate, weight, bias: (C,). Evaluation takes running_mean and
    running_var for BN, which follow mean and the unbiased variance; IN is always of the sample.
    After each optimizer step gate is clamped to 0 .. 1.

    Args: eps: added to the variances. momentum: weight of the new value in the running statistics,
        per optimizer step, or per micro-batch with momentum_per=forward. affine: learn weight and
        bias; gate is always learned. norm_batch: samples behind one batch statistic; `worker` one
        worker's batch, `global` that of all workers, a number less than a worker's share contiguous
        chunks of it, more the batches of several workers.
    Raises: NormError for (N, C) and for maps of one position, which have no instance statistics.
    Limits: half a batch norm, so as noisy in small batches; nothing for dense layers. Where the
        mean is large, float32 is off by up to 5e-7 |mean| / deviation.
    Source: Nam & Kim 2018, arXiv 1805.07925.
    """

    parameters: ClassVar[str] = "3 C"
    memory_format: ClassVar[str] = "contiguous"

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its gate and running statistics.

        Raises: NormError if there are no spatial axes.
        """
        if dims == 0:
            why = "has no instance statistics for inputs (N, C)"
            raise NormError("", "bin", why, "norm=bn")
        return BatchInstanceNorm(channels, dims, self, self.eps)


class BatchInstanceNorm(BatchLayer):
    """Mixes batch and instance normalization by a gate per channel."""

    unbiased = True

    def __init__(self, channels: int, dims: int, options: BIN, eps: float) -> None:
        super().__init__(channels, dims, options)
        self.gate = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` and, in training, update the running statistics."""
        check_rank(self, x, self.dims)
        check_count(self, x.shape, math.prod(x.shape[2:]), "per channel and sample")
        return super().forward(x)

    def normalize(self, x: Tensor, times: int, workers: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Mix the moments of the set with those of each sample."""
        wide, like = at_least_float32(x), repeated(at_least_float32(self.running_mean), times)
        batch, instance, bias = self._mixture(times)
        y, mean, var, values = batch_norm(wide, like, (batch, bias), self.eps, workers)
        unbiased = var * (values / (values - 1))
        return y + self._of_instances(wide, instance), (mean, unbiased)

    def evaluate(self, x: Tensor) -> Tensor:
        """Mix the running statistics with those of each sample."""
        wide, (batch, instance, bias) = at_least_float32(x), self._mixture(1)
        mean, var = at_least_float32(self.running_mean), at_least_float32(self.running_var)
        y = by_moments(wide, mean, var, batch, bias, self.eps)
        return (y + self._of_instances(wide, instance)).to(x.dtype)

    def after_step(self) -> None:
        """Clamp the gate."""
        with torch.no_grad():
            self.gate.clamp_(0, 1)

    def _mixture(self, times: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the scales of the batch and the instance part, and bias, (times*C,) each."""
        gate, (weight, bias) = repeated(at_least_float32(self.gate), times), self.gains(times)
        if weight is None:
            return gate, 1 - gate, bias
        return gate * weight, (1 - gate) * weight, bias

    def _of_instances(self, x: Tensor, scale: Tensor) -> Tensor:
        return group_norm(x, x.shape[1], scale, None, self.eps)
