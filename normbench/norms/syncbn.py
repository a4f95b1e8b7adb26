"""Batch normalization over the samples of all workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.norms._batch import BatchNorm
from normbench.norms._statistics import RunningStatistics


@dataclass(frozen=True)
class SyncBN(RunningStatistics):
    """Synchronized batch normalization: each channel by the samples of all workers together.

    y = (x - mean) / sqrt(var + eps) * weight + bias;  x: (N, C, ...) on each worker, N may differ;
    mean, var: (C,) over the samples and positions of all workers, var biased; weight, bias: (C,).
    Evaluation takes running_mean and running_var, which follow mean and the unbiased variance and
    are the same on all workers. The same as `bn` with norm_batch=global; with one worker it is bn.

    Args: eps: added to the variance. momentum: weight of the new value in the running statistics,
        per optimizer step, or per micro-batch with momentum_per=forward. affine: learn weight and
        bias.
    Raises: NormError in training if all workers together have a single value per channel.
    Limits: in every layer and pass the workers wait for each other; statistics over many samples
        regularize less. Where the mean is large, float32 is off by up to 5e-7 |mean| / deviation.
    Source: Peng et al. 2018 (MegDet), arXiv 1711.07240. A worker's input gradient is that of the
        sum of all workers' losses; the gradients of weight and bias stay sums over its own samples.
        All workers have to reach the layer equally often.
    """

    aliases: ClassVar[tuple[str, ...]] = ("cross-gpu-bn", "sync", "sync-batch")
    state: ClassVar[str] = "running_mean running_var num_batches_tracked"
    norm_batch: ClassVar[str] = "global"

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its running statistics."""
        return SyncBatchNorm(channels, dims, self, self.eps)


class SyncBatchNorm(BatchNorm):
    """Batch normalization over all workers."""
