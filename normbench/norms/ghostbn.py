"""Batch normalization over parts of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from normbench.norms._batch import BatchNorm, StatGroups, stat_groups
from normbench.norms._statistics import RunningStatistics
from normbench.parts.options import option


@dataclass(frozen=True)
class GhostBN(RunningStatistics):
    """Ghost batch normalization: each channel by mean and variance over a chunk of the batch.

    y = (x - mean) / sqrt(var + eps) * weight + bias;  x: (N, C, ...), cut into K = ceil(N / size)
    contiguous chunks of ceil(N / K) samples, the last may have fewer; mean, var: (K, C) over the
    samples of a chunk and positions, var biased; weight, bias: (C,). Evaluation takes running_mean
    and running_var, which follow mean and the unbiased variance of each chunk in order, with
    momentum/K each. With size >= N it is bn.

    Args: size: most samples in a chunk. eps: added to the variance. momentum: weight of the new
        values in the running statistics, per optimizer step, or per micro-batch with
        momentum_per=forward. affine: learn weight and bias.
    Raises: NormError in training if a chunk has a single value per channel.
    Limits: chunks of few values are as noisy as small batches are for bn; how the batch is ordered
        decides who shares a chunk. Where the mean is large, float32 is off by up to 5e-7 |mean| /
        deviation.
    Source: Hoffer, Hubara & Soudry 2017, arXiv 1705.08741, algorithm 1. Its running statistics
        take every chunk with the full momentum.
    """

    aliases: ClassVar[tuple[str, ...]] = ("ghost",)
    state: ClassVar[str] = "running_mean running_var num_batches_tracked"
    memory_format: ClassVar[str] = "contiguous"
    sized_by: ClassVar[str] = "size"

    size: int = option(32, low=1)

    @property
    def norm_batch(self) -> int:
        """Return the samples behind one statistic."""
        return self.size

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its running statistics."""
        return GhostBatchNorm(channels, dims, self, self.eps)


class GhostBatchNorm(BatchNorm):
    """Batch normalization of chunks, which never joins workers."""

    chunked_by: ClassVar[str] = "norm.size"

    def stat_groups(self, x: Tensor) -> StatGroups:
        """Cut the batch where it is larger than a chunk."""
        whole = x.shape[0] <= int(self.norm_batch)
        return stat_groups(self, x, "worker" if whole else self.norm_batch)
