"""Reductions that norms share, in the form that is fast on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor


def precise(x: Tensor) -> Tensor:
    """Return `x` in float32 or better."""
    return x if x.dtype == torch.float64 else x.float()


def spread(values: Tensor, dims: int) -> Tensor:
    """Append `dims` axes of length 1, so that values (C,) or (N, C) fit (N, C, ...)."""
    return values[(..., *[None] * dims)]


def channel_sums(g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of g x and of g over the positions of (N, C, ...), each of shape (N, C)."""
    if x.dim() == 2:
        return g * x, g
    # The first half of group norm's backward pass is just this, in one pass over both.
    rows = x.shape[0] * x.shape[1]
    zeros, ones = x.new_zeros(1, rows), x.new_ones(1, rows)
    _, products, sums = torch.ops.aten.native_group_norm_backward(
        *(g.reshape(1, rows, -1), x.reshape(1, rows, -1), zeros, ones, ones[0]),
        *(1, rows, x.shape[2:].numel(), rows, [False, True, True]),
    )
    return products.reshape(x.shape[:2]), sums.reshape(x.shape[:2])
