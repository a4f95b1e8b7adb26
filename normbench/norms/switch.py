"""Switchable normalization."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench.norms._base import Running, check_count, check_rank
from normbench.norms._moments import ema_, normalized, row_moments
from normbench.norms._statistics import RunningStatistics
from normbench.norms._sums import at_least_float32


@dataclass(frozen=True)
class Switch(RunningStatistics):
    """Switchable normalization: learned weights mix the statistics of instance, layer and batch.

    y = (x - mean) / sqrt(var + eps) * weight + bias;  mean = sum_k a_k mean_k, a the softmax of
    mean_weight; var = sum_k b_k var_k, b the softmax of var_weight; k: instance, layer, batch.
    x: (N, C, ...); instance: (N, C) over positions, var unbiased; layer: (N, 1) and batch: (1, C)
    from means over C and over N of m = mean_in and q = var_in + mean_in^2: mean m, var q - m^2.
    For (N, C) there is no instance, and layer and batch have unbiased variances. Evaluation takes
    running_mean and running_var, which start at 0, for the batch. weight, bias: (C,).

    Args: eps: added to the variance. momentum: weight of the new value in the running statistics,
        per optimizer step, or per micro-batch with momentum_per=forward. batch: false leaves the
        batch out, and the running statistics. affine: learn weight and bias.
    Raises: NormError for feature maps with one position, for (N, C) with one channel, and in
        training with one sample.
    Limits: with the batch among its statistics it is noisy in small batches; mixes are per layer,
        not per channel. Where the mean is large, float32 is off by up to 5e-7 |mean| / deviation.
    Source: Luo, Ren, Peng, Zhang & Li 2019, arXiv 1806.10779.
    """

    aliases: ClassVar[tuple[str, ...]] = ("sn", "switchable")
    bias: ClassVar[bool] = True
    parameters: ClassVar[str] = "2 C + 6"
    memory_format: ClassVar[str] = "contiguous"

    batch: bool = True

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its weights of the statistics."""
        return SwitchNorm(channels, dims, self)

    def has_modes(self) -> bool:
        """Tell whether it has the batch's statistics: else training and evaluation are the same."""
        return self.batch


class SwitchNorm(Running):
    """Normalizes by a mixture of instance, layer and batch statistics."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    steps: Tensor
    variance: ClassVar[str | None] = "running_var"

    def __init__(self, channels: int, dims: int, options: Switch) -> None:
        super().__init__()
        self.dims, self.eps, self.momentum = dims, options.eps, options.momentum
        self.batch, self.unbiased = options.batch, dims == 0
        if dims == 0:
            check_count(self, (1, channels), channels, "per sample")
        members = 1 + (dims > 0) + self.batch
        self.mean_weight = nn.Parameter(torch.ones(members))
        self.var_weight = nn.Parameter(torch.ones(members))
        affine = options.affine
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)
        if self.batch:
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.zeros(channels))
            self.register_buffer("steps", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` and, in training, update the running statistics."""
        check_rank(self, x, self.dims)
        size = math.prod(x.shape[2:])
        if self.dims:
            check_count(self, x.shape, size, "per channel and sample")
        if self.training and self.batch:
            check_count(self, x.shape, x.shape[0] * size, "per channel")
        wide = at_least_float32(x)
        mean, var = self._mixed(*row_moments(wide), size)
        return normalized(wide, mean, var, self.eps, (self.weight, self.bias)).to(x.dtype)

    def _mixed(self, means: Tensor, within: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Mix the statistics, given mean and biased variance (N, C) over `size` positions."""
        members = []
        if self.dims:
            within = within * (size / (size - 1))
            members.append((means, within))
        members.append(self._over(1, means, within))
        if self.batch and self.training:
            mean, var = self._over(0, means, within)
            members.append((mean, var))
            with torch.no_grad():
                ema_(self.running_mean, mean[0], self.share(self.momentum))
                ema_(self.running_var, var[0], self.share(self.momentum))
                self.steps.add_(1)
        elif self.batch:
            members.append((self.running_mean, self.running_var))
        shares, var_shares = self.mean_weight.softmax(0), self.var_weight.softmax(0)
        mean, var = shares[0] * members[0][0], var_shares[0] * members[0][1]
        for k, (member_mean, member_var) in enumerate(members[1:], 1):
            mean = mean + shares[k] * member_mean
            var = var + var_shares[k] * member_var
        return mean, var

    def _over(self, axis: int, means: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance over samples or channels, from the moments of the instances."""
        mean = means.mean(axis, keepdim=True)
        between = (means - mean).square().sum(axis, keepdim=True)
        between = between / (means.shape[axis] - (self.dims == 0))  # unbiased without positions
        return mean, within.mean(axis, keepdim=True) + between
