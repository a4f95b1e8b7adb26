"""Positional normalization."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from normbench.norms._base import Norm, check_count, check_rank
from normbench.parts.options import option


@dataclass(frozen=True)
class PONO(Norm):
    """Positional normalization: the channels at each position by their mean and deviation.

    y = (x - mean) / sqrt(var + eps);  x: (N, C, ...); mean, var: (N, ...) over the C channels, var
    unbiased (divided by C - 1). Nothing is learned. The same in training and evaluation.

    Args: eps: added to the variance.
    Raises: NormError if there is a single channel.
    Limits: removes the very structure that its authors hand on to later layers; needs many channels
        to mean much. Where the mean is large, float32 is off by up to 5e-7 |mean| / deviation.
    Source: Li, Wu, Weinberger & Belongie 2019, arXiv 1907.04312. Without its second half, which
        hands the moments to a later layer of the same size.
    """

    eps: float = option(1e-5, low=0)

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer."""
        return PositionalNorm(channels, dims, self.eps)


class PositionalNorm(nn.Module):
    """torch's layer norm over the channels at each position, with the unbiased variance."""

    def __init__(self, channels: int, dims: int, eps: float) -> None:
        super().__init__()
        self.channels, self.dims, self.eps = channels, dims, eps
        check_count(self, (1, channels), channels, "per position")

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` of shape (N, C, ...)."""
        check_rank(self, x, self.dims)
        ratio = (self.channels - 1) / self.channels  # biased variance / unbiased variance
        scale = x.new_full((self.channels,), ratio**0.5)
        last = x.movedim(1, -1)
        y = F.layer_norm(last, (self.channels,), scale, None, self.eps * ratio)
        return y.movedim(-1, 1).to(x.dtype)
