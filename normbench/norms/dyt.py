"""Dynamic tanh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.norms._base import Norm, check_rank
from normbench.norms._sums import channel_sums, precise, spread
from normbench.options import option


@dataclass(frozen=True)
class DyT(Norm):
    """Dynamic tanh: squashes each value, takes no statistics.

    y = tanh(alpha x) * weight + bias;  x: (N, C, ...); alpha: one learned number per layer;
    weight, bias: (C,). The same in training and evaluation.

    Args: alpha: its starting value. affine: learn weight and bias.
    Source: Zhu, Chen, He, LeCun & Liu 2025, arXiv 2503.10622, equation 1.
    """

    parameters: ClassVar[str] = "2 C + 1"

    alpha: float = option(0.5)
    affine: bool = True

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer."""
        return DynamicTanh(channels, dims, self)


class DynamicTanh(nn.Module):
    """Applies a tanh with a learned slope, then a scale and a shift per channel."""

    def __init__(self, channels: int, dims: int, options: DyT) -> None:
        super().__init__()
        self.dims, affine = dims, options.affine
        self.alpha = nn.Parameter(torch.tensor(options.alpha))
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)

    def forward(self, x: Tensor) -> Tensor:
        """Squash `x` of shape (N, C, ...)."""
        check_rank(self, x, self.dims)
        y: Tensor = _ScaledTanh.apply(precise(x), self.alpha, self.weight, self.bias)
        return y.to(x.dtype)
