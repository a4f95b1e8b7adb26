"""Root mean square normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench.norms._base import Norm, check_rank
from normbench.norms._sums import at_least_float32
from normbench.norms._uncentred import RootMeanSquare
from normbench.parts.options import option


@dataclass(frozen=True)
class RMS(Norm):
    """Root mean square normalization: each sample by its root mean square, without centring.

    y = x / sqrt(E[x^2] + eps) * weight;  x: (N, C, ...); E over all channels and positions of a
    sample, or over the channels at each position; weight: (C,). The same in training and
    evaluation.

    Args: over: `sample` or `channel`, what the mean square is taken over. eps: added to the mean
        square. affine: learn weight.
    Limits: a shift common to all values stays.
    Source: Zhang & Sennrich 2019, arXiv 1910.07467, equation 4.
    """

    aliases: ClassVar[tuple[str, ...]] = ("rmsnorm",)
    parameters: ClassVar[str] = "C"
    memory_format: ClassVar[str] = "contiguous"

    over: str = option("sample", choices=("sample", "channel"))
    eps: float = option(1e-6, low=0)
    affine: bool = True

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer."""
        return RMSNorm(channels, dims, self)


class RMSNorm(nn.Module):
    """Divides each sample, or the channels at each position, by their root mean square."""

    def __init__(self, channels: int, dims: int, options: RMS) -> None:
        super().__init__()
        self.dims, self.eps = dims, options.eps
        self.per_position = options.over == "channel"
        start = nn.Parameter(torch.ones(channels)) if options.affine else None
        self.register_parameter("weight", start)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` of shape (N, C, ...)."""
        check_rank(self, x, self.dims)
        if not self.per_position or self.dims == 0:
            y: Tensor = RootMeanSquare.apply(at_least_float32(x), self.weight, None, self.eps, 1)[0]
            return y.to(x.dtype)
        last = at_least_float32(x).movedim(1, -1)
        rows = last.reshape(-1, x.shape[1])
        y = RootMeanSquare.apply(rows, self.weight, None, self.eps, 1)[0]
        return y.reshape(last.shape).movedim(-1, 1).to(x.dtype)
