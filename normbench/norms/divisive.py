"""Divisive normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.errors import NormError
from normbench.norms._base import Norm, check_rank
from normbench.norms._sums import at_least_float32, channel_sums, per_position, window_sums
from normbench.parts.options import option


@dataclass(frozen=True)
class Divisive(Norm):
    """Divisive normalization: each position by the mean and energy of its neighbourhood.

    v = x - A(x);  y = v / sqrt(sigma2 + B(v^2)) * weight + bias;  x: (N, C, ...); A, B: (N, ...),
    means over all channels and a window of positions; weight, bias: (C,). For (N, C) the windows
    run along the features. Windows are padded with zeros and count in full at the borders too.
    The same in training and evaluation.

    Args: sum_window: positions along an axis of A's window, odd. sup_window: the same for B.
        sigma2: added to B. affine: learn weight and bias.
    Raises: NormError for an even window.
    Limits: in a dense layer the window runs along the numbering of the units, which means nothing;
        sigma2 has to fit the scale of the data. Where the mean is large, float32 is off by up to
        5e-7 |mean| / deviation.
    Source: Ren, Liao, Urtasun, Sinz & Zemel 2017, arXiv 1611.04520. sigma2 is not learned; the
        penalty on |v| there is no part of the layer.
    """

    aliases: ClassVar[tuple[str, ...]] = ("divnorm", "dn")
    parameters: ClassVar[str] = "2 C"
    memory_format: ClassVar[str] = "contiguous"

    sum_window: int = option(3, low=1)
    sup_window: int = option(3, low=1)
    sigma2: float = option(1.0, low=0)
    affine: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sum_window", "sup_window"):
            window = getattr(self, name)
            if window % 2 == 0:
                raise NormError(name, window, "is even: a window has a centre", window + 1)

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer."""
        return DivisiveNorm(channels, dims, self)


class DivisiveNorm(nn.Module):
    """Subtracts the mean of a window and divides by the root of the energy that is left in one."""

    def __init__(self, channels: int, dims: int, options: Divisive) -> None:
        super().__init__()
        self.dims, affine = dims, options.affine
        self.how = (options.sum_window, options.sup_window, options.sigma2)
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` of shape (N, C, ...)."""
        check_rank(self, x, self.dims)
        y: Tensor = _Divided.apply(at_least_float32(x), self.weight, self.bias, *self.how)[0]
        return y.to(x.dtype)


class _Divided(torch.autograd.Function):
    """The whole layer. The means are self-adjoint: the backward pass applies them again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        sum_window: int,
        sup_window: int,
        sigma2: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        v = x - _local(_average(x), sum_window)
        inverse = (_local(_average(v * v), sup_window) + sigma2).rsqrt()
        unit = v.mul_(inverse)
        if weight is None or bias is None:
            return unit.clone(), unit, inverse
        dims = x.dim() - 2
        return (unit * per_position(weight, dims)).add_(per_position(bias, dims)), unit, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, weight, _, ctx.sum_window, ctx.sup_window, _ = inputs
        ctx.save_for_backward(weight, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, unit, inverse = ctx.saved_tensors
        g, grad_weight, grad_bias = grads[0], None, None
        if weight is not None:
            grad_weight, grad_bias = (sums.sum(0) for sums in channel_sums(g, unit))
            g = g * per_position(weight, g.dim() - 2)
        pull = _local(_average(g * unit) * inverse.square(), ctx.sup_window) / inverse
        grad = torch.addcmul(g * inverse, unit, pull, value=-1)
        return grad - _local(_average(grad), ctx.sum_window), grad_weight, grad_bias, *[None] * 3


def _average(x: Tensor) -> Tensor:
    """Average over channels, (N, 1, ...); `x` itself where the windows run over features."""
    return x if x.dim() == 2 else x.sum(1, keepdim=True) / x.shape[1]


def _local(x: Tensor, window: int) -> Tensor:
    """Average over a zero-padded window around each place, always of the full window."""
    half = window // 2
    for axis in range(min(2, x.dim() - 1), x.dim()):
        x = window_sums(x, axis, half, half) / window
    return x
