"""Batch normalization whose evaluation corrects the running statistics by the sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.norms._batch import BatchLayer, StatGroups, ema_by_chunk_, repeated
from normbench.norms._batch_moments import batch_norm, over_workers
from normbench.norms._moments import normalized, row_moments
from normbench.norms._statistics import BatchStatistics
from normbench.norms._sums import at_least_float32
from normbench.parts.options import option


@dataclass(frozen=True)
class EvalNorm(BatchStatistics):
    """EvalNorm: batch normalization that in evaluation mixes in the statistics of the sample.

    Training: y = (x - mean) / sqrt(var + eps) * weight + bias;  x: (N, C, ...); mean, var, weight,
    bias: (C,), as bn; running_mean M and running_var V follow mean and the biased var.
    Evaluation: y = (x - m) / sqrt(v + eps) * weight + bias, for each sample and channel from
    m_s, v_s: (N, C), mean and biased variance over positions (for inputs (N, C) x itself and 0):
    m = alpha m_s + (1 - alpha) M, v = beta (v_s + (m_s - m)^2) + (1 - beta) (V + (M - m)^2).

    Args: alpha: share of the sample in the mean; null is 1 / batch, of the largest N seen in
        training; `fit` estimates it in training, by least squares of mean - M on m_s - M. beta:
        share of the sample in the variance, not the bias; null is as alpha, with alpha=fit the
        least squares of var - q on u - q, u and q what beta mixes. eps: added to the variance.
        momentum: weight of the new value in the running statistics, per optimizer step, or per
        micro-batch with momentum_per=forward. affine: learn weight and bias. norm_batch: samples
        behind one statistic; `worker` one worker's batch, `global` that of all workers, a number
        less than a worker's share contiguous chunks of it, more the batches of several workers.
    Raises: NormError in training if a statistic has a single value.
    Limits: changes evaluation alone, training is as noisy as that of bn; in dense layers a sample
        has no variance of its own to add. eval_stats=dataset takes mean and variance again, while
        fitted shares stay those of training. Where the mean is large, float32 is off by up to 5e-7
        |mean| / deviation.
    Source: Singh & Shrivastava 2019, arXiv 1904.06031. `fit` is a closed form of its estimation.
    """

    state: ClassVar[str] = "running_mean running_var steps batch"

    alpha: float | str | None = option(None, low=0, high=1, choices=("fit",))
    beta: float | None = option(None, low=0, high=1)

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its running statistics."""
        return EvalBatchNorm(channels, dims, self)


class EvalBatchNorm(BatchLayer):
    """Batch normalization in training; in evaluation running statistics corrected by the sample."""

    batch: Tensor
    alpha_sums: Tensor  # what the fit of alpha divides: averages of products and of squares
    beta_sums: Tensor

    def __init__(self, channels: int, dims: int, options: EvalNorm) -> None:
        super().__init__(channels, dims, options)
        self.eps, self.alpha, self.beta = options.eps, options.alpha, options.beta
        self.register_buffer("batch", torch.tensor(1.0))
        if self.alpha == "fit":
            self.register_buffer("alpha_sums", torch.zeros(2))
            if self.beta is None:
                self.register_buffer("beta_sums", torch.zeros(2))

    def normalize(self, x: Tensor, times: int, workers: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Normalize by the moments of the set; the running variance follows the biased one."""
        like = repeated(at_least_float32(self.running_mean), times)
        y, mean, var, _ = batch_norm(x, like, self.gains(times), self.eps, workers)
        return y, (mean, var)

    def evaluate(self, x: Tensor) -> Tensor:
        """Normalize each sample by the running statistics and its own."""
        wide, alpha = at_least_float32(x), self._alpha()
        means, variances = row_moments(wide)
        mean, own, running = self._mixed(means, variances, alpha)
        beta = self._beta(alpha)
        var = beta * own + (1 - beta) * running
        return normalized(wide, mean, var, self.eps, (self.weight, self.bias)).to(x.dtype)

    def update(self, x: Tensor, groups: StatGroups, new: Sequence[Tensor]) -> None:
        """Update what evaluation mixes and in which shares."""
        if self.alpha == "fit":
            self._fit(*row_moments(at_least_float32(x)), groups, new)
        super().update(x, groups, new)
        samples = over_workers(torch.full_like(self.batch, groups.rows), groups.workers)
        self.batch.copy_(torch.maximum(self.batch, samples))

    def _fit(
        self, means: Tensor, variances: Tensor, groups: StatGroups, new: Sequence[Tensor]
    ) -> None:
        """Update the fit of alpha, then with it that of beta, from the moments of the samples."""
        mean, var = (moment.repeat_interleave(groups.rows, 0)[: len(means)] for moment in new)
        gap = means - self.running_mean
        products = (mean - self.running_mean) * gap
        self._follow(self.alpha_sums, products, gap.square(), groups)
        if self.beta is None:
            _, own, running = self._mixed(means, variances, self._alpha())
            gap = own - running
            self._follow(self.beta_sums, (var - running) * gap, gap.square(), groups)

    def _follow(
        self, buffer: Tensor, products: Tensor, squares: Tensor, groups: StatGroups
    ) -> None:
        """Update averages (2,) by the sums of (N, C) over the samples of each set and channels."""
        by_sample = torch.stack([products, squares]).sum(2)
        missing = -by_sample.shape[1] % groups.rows
        sums = F.pad(by_sample, (0, missing)).reshape(2, -1, groups.rows).sum(2).T
        ema_by_chunk_(buffer, over_workers(sums, groups.workers), self.momentum, self.steps)

    def _mixed(
        self, means: Tensor, variances: Tensor, alpha: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mix the means; return with them the variances around it: the sample's, the running."""
        mean = alpha * means + (1 - alpha) * self.running_mean
        own = variances + (means - mean).square()
        return mean, own, self.running_var + (self.running_mean - mean).square()

    def _alpha(self) -> float | Tensor:
        if self.alpha is None:
            return 1 / self.batch
        return self.alpha if isinstance(self.alpha, float) else _ratio(self.alpha_sums)

    def _beta(self, alpha: float | Tensor) -> float | Tensor:
        if self.beta is not None:
            return self.beta
        return _ratio(self.beta_sums) if self.alpha == "fit" else alpha


def _ratio(sums: Tensor) -> Tensor:
    """Return the least squares slope as a share, 0 before there are any sums."""
    return (sums[0] / sums[1].clamp_min(torch.finfo(sums.dtype).tiny)).clamp(0, 1)
