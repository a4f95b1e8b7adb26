# ruff: noqa: N999 - the name of the method is a keyword
"""Instance normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.errors import NormError
from normbench.norms._base import Running, check_count, check_rank
from normbench.norms._statistics import MovingAverage
from normbench.norms._sums import by_moments, group_norm
from normbench.parts.options import option


@dataclass(frozen=True)
class IN(MovingAverage):
    """Instance normalization: each channel of each sample by its mean and variance over space.

    y = (x - mean) / sqrt(var + eps) * weight + bias;  x: (N, C, L) or (N, C, H, W); mean, var:
    (N, C) over positions, var biased; weight, bias: (C,). With `track`, evaluation takes
    running_mean and running_var (C,), which follow the batch's averages of mean and of the
    unbiased variance.

    Args: eps: added to the variance. affine: learn weight and bias. track: keep running statistics
        for evaluation. momentum: weight of the new value in them, per optimizer step, or per
        micro-batch with momentum_per=forward.
    Raises: NormError without positions, or with a single one where instances are normalized.
    Limits: removes the contrast of each map, and before a global average all that the average could
        tell; nothing for dense layers. Where the mean is large, float32 is off by up to 5e-7 |mean|
        / deviation.
    Source: Ulyanov, Vedaldi & Lempitsky 2016, arXiv 1607.08022.
    """

    aliases: ClassVar[tuple[str, ...]] = ("instance",)
    bias: ClassVar[bool] = False
    parameters: ClassVar[str] = "2 C"
    memory_format: ClassVar[str] = "contiguous"

    eps: float = option(1e-5, low=0)
    affine: bool = True
    track: bool = False

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer, with buffers if it tracks."""
        if dims == 0:
            raise NormError(
                "", "in", "(N, C) has no positions to take statistics over", "norm=ln or model=cnn"
            )
        return InstanceNorm(channels, dims, self)

    def has_modes(self) -> bool:
        """Tell whether running statistics replace those of the instances in evaluation."""
        return self.track


class InstanceNorm(Running):
    """Normalizes instances, in evaluation by running statistics if these are tracked."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None

    def __init__(self, channels: int, dims: int, options: IN) -> None:
        super().__init__()
        self.dims, self.eps, self.momentum = dims, options.eps, options.momentum
        affine, track = options.affine, options.track
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)
        self.register_buffer("running_mean", torch.zeros(channels) if track else None)
        self.register_buffer("running_var", torch.ones(channels) if track else None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` of shape (N, C, ...) and, in training, update what is tracked."""
        check_rank(self, x, self.dims)
        weight, bias, eps = self.weight, self.bias, self.eps
        mean, var = self.running_mean, self.running_var
        if mean is not None and var is not None and not self.training:
            return by_moments(x, mean, var, weight, bias, eps).to(x.dtype)
        check_count(self, x.shape, x.shape[2:].numel(), "per channel of a sample")
        if mean is not None:
            momentum = self.share(self.momentum)
            y = F.instance_norm(x, mean, var, weight, bias, True, momentum, eps)
        else:  # the same at half the time
            y = group_norm(x, x.shape[1], weight, bias, eps)
        return y.to(x.dtype)
