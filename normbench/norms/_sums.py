"""Reductions over positions and groups, in the form that is fast on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32 or better."""
    return x if x.dtype == torch.float64 else x.float()


def widest(x: Tensor) -> Tensor:
    """Return `x` without gradient in float64, where the device has it."""
    return x.detach().to(torch.float32 if x.device.type == "mps" else torch.float64)


def by_moments(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Return (x - mean) / sqrt(var + eps) * weight + bias for values (C,), by torch's kernel.

    Not by `torch.nn.functional.batch_norm`, which refuses eps=0 in some versions of torch.
    """
    cudnn = torch.backends.cudnn.enabled
    return torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, cudnn)


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Return (x - mean) / sqrt(var + eps) * weight + bias by torch's kernel.

    x: (N, C, ...); mean, var: (N, groups) over contiguous channels and positions, var biased;
    weight, bias: (C,).
    """
    if x.dim() == 4 and torch.is_grad_enabled() and not x.requires_grad:
        # The backward pass of torch 2.11 crashes for maps whose strides say channels last and that
        # need no gradient. With a single spatial axis there is no such format.
        return F.group_norm(x.flatten(2), groups, weight, bias, eps).view(x.shape)
    return F.group_norm(x, groups, weight, bias, eps)


def per_position(values: Tensor, dims: int) -> Tensor:
    """Append `dims` axes of length 1, so that values (C,) or (N, C) fit (N, C, ...)."""
    return values[(..., *[None] * dims)]


def per_channel(values: Tensor, channels: int) -> Tensor:
    """Repeat values (N, G) of contiguous groups for each of their channels, (N, C)."""
    rows, groups = values.shape
    return values[:, :, None].expand(-1, -1, channels // groups).reshape(rows, channels)


def channel_sums(g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of g x and of g over the positions of (N, C, ...), each of shape (N, C)."""
    if x.dim() == 2:
        return g * x, g
    if x.stride(1) == 1:  # channels last
        places = tuple(range(2, x.dim()))
        return (g * x).sum(places), g.sum(places)
    # The first half of group norm's backward pass is just this, in one pass over both.
    rows = x.shape[0] * x.shape[1]
    zeros, ones = x.new_zeros(1, rows), x.new_ones(1, rows)
    # Not every version of torch looks at the strides, such as those of the gradient of a mean.
    both = (tensor.reshape(1, rows, -1).contiguous() for tensor in (g, x))
    _, products, sums = torch.ops.aten.native_group_norm_backward(
        *(*both, zeros, ones, ones[0]),
        *(1, rows, x.shape[2:].numel(), rows, [False, True, True]),
    )
    return products.reshape(x.shape[:2]), sums.reshape(x.shape[:2])


def window_sums(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Sum along `axis` from `before` places below to `after` above each, as if padded by zeros."""
    total, length = x.clone(), x.shape[axis]
    for k in range(1, min(before, length - 1) + 1):
        total.narrow(axis, k, length - k).add_(x.narrow(axis, 0, length - k))
    for k in range(1, min(after, length - 1) + 1):
        total.narrow(axis, 0, length - k).add_(x.narrow(axis, k, length - k))
    return total
