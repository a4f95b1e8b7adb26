"""Statistics of single samples, accurate for any mean, and how statistics are applied."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from normbench.norms._sums import channel_sums, per_position


def row_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance (N, C) of `x` (N, C, ...) over its positions.

    Without positions, or with a single one, the mean is `x` itself and the variance 0.
    """
    if math.prod(x.shape[2:]) == 1:
        mean = x.reshape(x.shape[:2])
        return mean, torch.zeros_like(mean)
    mean, var = _RowMoments.apply(x.contiguous())
    return mean, var


def normalized(
    x: Tensor, mean: Tensor, var: Tensor, eps: float, affine: tuple[Tensor | None, Tensor | None]
) -> Tensor:
    """Return (x - mean) / sqrt(var + eps) * weight + bias for `affine` = (weight, bias).

    mean, var: (C,) or (N, C), of any precision.
    """
    weight, bias = affine
    scale = (var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    scale, shift = scale.to(x.dtype), shift.to(x.dtype)
    y: Tensor = _ScaleShift.apply(x, scale, shift)
    return y


def ema_(buffer: Tensor, new: Tensor, share: float | Tensor) -> None:
    """Move a running statistic in place: (1 - share) * old + share * new."""
    buffer.mul_(1 - share).add_(share * new.detach())


def frozen(value: Tensor) -> Tensor:
    """Return a value on which the gradient depends and that comes from a buffer, about to change.

    torch's compiler takes such values again in the backward pass, from the changed buffer, unless
    the forward pass itself uses them and they went through an operation that is not repeated:
    reversing an axis of length 1.
    """
    if not torch.compiler.is_compiling():
        return value
    return value.unsqueeze(0).flip(0).squeeze(0)


def unautocast(x: Tensor) -> AbstractContextManager[Any]:
    """Keep the matrix products of statistics of `x` in their own precision under autocast."""
    if torch.amp.is_autocast_available(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


class _RowMoments(torch.autograd.Function):
    """Mean and biased variance (N, C) over the positions of a contiguous (N, C, ...)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        samples, channels, size = x.shape[0], x.shape[1], math.prod(x.shape[2:])
        # torch's group norm is the fastest single pass; with one channel a group and eps = 0 its
        # second statistic is 1 / sqrt(var), infinite where the variance is 0
        _, mean, inverse = torch.native_group_norm(
            x, None, None, samples, channels, size, channels, 0.0
        )
        return mean, inverse**-2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        size, dims = math.prod(x.shape[2:]), x.dim() - 2
        slope = grads[1] * (2 / size)
        grad: Tensor = x * per_position(slope, dims)
        return grad.add_(per_position(grads[0] / size - slope * mean, dims))


class _ScaleShift(torch.autograd.Function):
    """y = x * scale + shift;  x: (N, C, ...); scale, shift: (C,) or (N, C)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        y: Tensor = x * per_position(scale, x.dim() - 2)
        return y.add_(per_position(shift, x.dim() - 2))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, scale = ctx.saved_tensors
        products, sums = channel_sums(grad, x)
        if scale.dim() == 1:
            products, sums = products.sum(0), sums.sum(0)
        return grad * per_position(scale, x.dim() - 2), products, sums
