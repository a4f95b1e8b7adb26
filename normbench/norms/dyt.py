"""Dynamic tanh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.norms._base import Norm, check_rank
from normbench.norms._sums import at_least_float32, channel_sums, per_position
from normbench.parts.options import option


@dataclass(frozen=True)
class DyT(Norm):
    """Dynamic tanh: squashes each value, takes no statistics.

    y = tanh(alpha x) * weight + bias;  x: (N, C, ...); alpha: one learned number per layer;
    weight, bias: (C,). The same in training and evaluation.

    Args: alpha: its starting value. affine: learn weight and bias.
    Limits: takes no statistics, so alpha and the initialization have to fit the scale of x; made
        for transformers.
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
        y: Tensor = _ScaledTanh.apply(at_least_float32(x), self.alpha, self.weight, self.bias)[0]
        return y.to(x.dtype)


class _ScaledTanh(torch.autograd.Function):
    """tanh(alpha x) * weight + bias; weight and bias of shape (C,) or None."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, alpha: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        bent = (x * alpha).tanh_()
        if weight is None or bias is None:
            return bent.clone(), bent
        dims = x.dim() - 2
        return (bent * per_position(weight, dims)).add_(per_position(bias, dims)), bent

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, alpha, weight, _ = inputs
        ctx.save_for_backward(x, alpha, weight, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha, weight, bent = ctx.saved_tensors
        slope = torch.ops.aten.tanh_backward(grads[0], bent)  # g * (1 - tanh^2)
        if weight is None:
            return slope * alpha, (slope * x).sum(), None, None
        products, sums = channel_sums(grads[0], bent)
        bends = channel_sums(slope, x)[0].sum(0)
        grad = slope * per_position(weight * alpha, x.dim() - 2)
        return grad, (bends * weight).sum(), products.sum(0), sums.sum(0)
