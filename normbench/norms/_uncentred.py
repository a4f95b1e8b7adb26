"""The base of norms that divide by a root mean square and subtract no mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from normbench.norms._sums import channel_sums, per_channel, per_position


class RootMeanSquare(torch.autograd.Function):
    """y = x / sqrt(E[x^2] + eps) * weight + bias, E over contiguous groups of a sample's channels.

    x: (N, C, ...); weight, bias: (C,) or None; eps: a number or a tensor of shape (), which then
    gets a gradient. The second output is 1 / sqrt(E[x^2] + eps) of shape (N, groups), without
    gradient.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: Tensor | float, groups: int
    ) -> tuple[Tensor, Tensor]:
        dims, rows = x.dim() - 2, x.reshape(x.shape[0], groups, -1)
        inverse = (_mean_square(rows) + eps).rsqrt()
        y = x * per_position(_scale(inverse, weight, x.shape[1]), dims)
        return y if bias is None else y.add_(per_position(bias, dims)), inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, weight, bias, eps, ctx.groups = inputs
        ctx.save_for_backward(x, weight, output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.biased, ctx.learned = bias is not None, isinstance(eps, Tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        g, dims, channels = grads[0], x.dim() - 2, x.shape[1]
        products, sums = channel_sums(g, x)
        grad_weight = None
        if weight is not None:
            grad_weight = (products * per_channel(inverse, channels)).sum(0)
            products = products * weight
        if ctx.groups < channels:
            products = products.reshape(x.shape[0], ctx.groups, -1).sum(2)
        cubed = inverse.pow(3) * products
        pull = per_channel(-cubed / (x.shape[1:].numel() // ctx.groups), channels)
        grad = g * per_position(_scale(inverse, weight, channels), dims)
        return (
            torch.addcmul(grad, x, per_position(pull, dims)),  # in place vmap has no rule for it
            grad_weight,
            sums.sum(0) if ctx.biased else None,
            -cubed.sum() / 2 if ctx.learned else None,
            None,
        )


def _mean_square(rows: Tensor) -> Tensor:
    """Return E[x^2] over the last axis."""
    count = rows.shape[-1]
    return rows[..., 0].square() if count == 1 else vector_norm(rows, dim=-1).square() / count


def _scale(inverse: Tensor, weight: Tensor | None, channels: int) -> Tensor:
    """Return the factor of each channel of each sample, (N, C)."""
    scale = per_channel(inverse, channels)
    return scale if weight is None else scale * weight
