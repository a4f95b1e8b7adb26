"""Layer normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from normbench.norms._base import Norm, check_count, check_rank
from normbench.norms._sums import group_norm
from normbench.parts.options import option


@dataclass(frozen=True)
class LN(Norm):
    """Layer normalization: each sample by the mean and variance of all its values.

    y = (x - mean) / sqrt(var + eps) * weight + bias;  x: (N, C, ...); mean, var: (N,) over all
    channels and positions, or (N, ...) over the channels at each position, var biased; weight,
    bias: (C,). The same in training and evaluation.

    Args: over: `sample` or `channel`, what the moments are taken over. eps: added to the variance.
        affine: learn weight and bias.
    Raises: NormError if a mean has a single value.
    Limits: the mean of a unit over the samples stays as it is; units of unlike scale in a layer are
        not made alike. Where the mean is large, float32 is off by up to 5e-7 |mean| / deviation.
    Source: Ba, Kiros & Hinton 2016, arXiv 1607.06450. Weight and bias are per channel, so that any
        image size fits; torch's LayerNorm((C, H, W)) has one per channel and position.
    """

    aliases: ClassVar[tuple[str, ...]] = ("layer",)
    parameters: ClassVar[str] = "2 C"
    memory_format: ClassVar[str] = "contiguous"

    over: str = option("sample", choices=("sample", "channel"))
    eps: float = option(1e-5, low=0)
    affine: bool = True

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer; one serves all time steps of a recurrent net."""
        kind = LayerNorm if self.over == "sample" else LayerNormAtPositions
        return kind(channels, dims, self.eps, self.affine)


class LayerNorm(nn.GroupNorm):
    """torch's group norm with one group, or its layer norm where there are no positions."""

    def __init__(self, channels: int, dims: int, eps: float, affine: bool) -> None:
        super().__init__(1, channels, eps, affine)
        self.dims = dims
        if dims == 0:
            check_count(self, (1, channels), channels, "per sample")

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` of shape (N, C, ...)."""
        check_rank(self, x, self.dims)
        check_count(self, x.shape, x.shape[1:].numel(), "per sample")
        if self.dims == 0:  # four times as fast there
            y = F.layer_norm(x, (self.num_channels,), self.weight, self.bias, self.eps)
        else:
            y = group_norm(x, 1, self.weight, self.bias, self.eps)
        return y.to(x.dtype)


class LayerNormAtPositions(LayerNorm):
    """torch's layer norm over the channels of each position."""

    def __init__(self, channels: int, dims: int, eps: float, affine: bool) -> None:
        super().__init__(channels, dims, eps, affine)
        check_count(self, (1, channels), channels, "per position")

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` of shape (N, C, ...)."""
        check_rank(self, x, self.dims)
        last, channels = x.movedim(1, -1), (self.num_channels,)
        y = F.layer_norm(last, channels, self.weight, self.bias, self.eps)
        return y.movedim(-1, 1).to(x.dtype)
