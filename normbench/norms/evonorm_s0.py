"""EvoNorm-S0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.norms._base import Norm, check_count, check_rank, groups_of
from normbench.norms._sums import at_least_float32, channel_sums, per_channel, per_position
from normbench.parts.options import option


@dataclass(frozen=True)
class EvoNormS0(Norm):
    """EvoNorm-S0: a norm over groups of each sample's channels and the activation after it in one.

    y = x * sigmoid(v * x) / sqrt(var + eps) * weight + bias;  x: (N, C, ...); var: (N, groups)
    over C/groups contiguous channels and all positions, biased; v, weight, bias: (C,). It stands in
    the activation's place; there is no other norm. The same in training and evaluation.

    Args: groups: number of groups, a divisor of C; null is the divisor nearest to 8 that leaves
        two channels a group. eps: added to the variance. affine: learn weight and bias; v is always
        learned.
    Raises: NormError if groups does not divide C or a group has a single element.
    Limits: replaces the activation, so that none can be named; found by search on convolutional
        nets. Where the mean is large, float32 is off by a share of up to 5e-7 |mean| / deviation.
    Source: Liu, Brock, Simonyan & Le 2020, arXiv 2004.02967, table 2.
    """

    places: ClassVar[tuple[str, ...]] = ("pre", "preact")
    own_activation: ClassVar[bool] = True
    parameters: ClassVar[str] = "3 C"
    memory_format: ClassVar[str] = "contiguous"

    groups: int | None = option(None, low=1)
    eps: float = option(1e-5, low=0)
    affine: bool = True

    def activation(self, act: nn.Module | None, channels: int, dims: int) -> nn.Module:
        """Return the layer that is both norm and activation."""
        return SampleEvoNorm(channels, dims, self)


class SampleEvoNorm(nn.Module):
    """Gates each value by a sigmoid of itself and divides by the deviation of its group."""

    def __init__(self, channels: int, dims: int, options: EvoNormS0) -> None:
        super().__init__()
        self.dims, self.eps, affine = dims, options.eps, options.affine
        self.groups = groups_of(options.groups, channels)
        if dims == 0:
            check_count(self, (1, channels), channels // self.groups, "per group")
        self.v = nn.Parameter(torch.ones(channels))
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` of shape (N, C, ...) and apply the activation."""
        check_rank(self, x, self.dims)
        check_count(self, x.shape, x.shape[1:].numel() // self.groups, "per group")
        affine = self.weight, self.bias
        y: Tensor = _GatedNorm.apply(at_least_float32(x), self.v, *affine, self.groups, self.eps)[0]
        return y.to(x.dtype)


class _GatedNorm(torch.autograd.Function):
    """The whole layer; further outputs are the gate, and mean and 1 / deviation (N, groups)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, v: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float
    ) -> tuple[Tensor, ...]:
        dims, rows = x.dim() - 2, x.reshape(x.shape[0], groups, -1).contiguous()
        # torch's group norm is the fastest accurate variance; its output is not needed
        samples, _, size = rows.shape
        _, mean, inverse = torch.native_group_norm(
            rows, None, None, samples, groups, size, groups, eps
        )
        gate = (x * per_position(v, dims)).sigmoid_()
        scale = per_channel(inverse, x.shape[1])
        y = (x * gate).mul_(per_position(scale if weight is None else scale * weight, dims))
        return y if bias is None else y.add_(per_position(bias, dims)), gate, mean, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, v, weight, _, ctx.groups, _ = inputs
        ctx.save_for_backward(x, v, weight, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, v, weight, gate, mean, inverse = ctx.saved_tensors
        g, dims = grads[0], x.dim() - 2
        gated = g * gate
        bent = torch.addcmul(gated, gated, gate, value=-1).mul_(x)  # g x gate (1 - gate)
        products = channel_sums(gated, x)[0]
        scale = per_channel(inverse, x.shape[1])
        grad_weight = None if weight is None else (products * scale).sum(0)
        grad_bias = None if weight is None else _totals(g)
        if weight is not None:
            scale, products = scale * weight, products * weight
        grad_v = (channel_sums(bent, x)[0] * scale).sum(0)
        # through the variance: d inverse / dx = -inverse^3 (x - mean) / count
        pull = products.reshape(x.shape[0], ctx.groups, -1).sum(2) * inverse.pow(3)
        pull = -pull / (x.shape[1:].numel() // ctx.groups)
        grad = torch.addcmul(gated, bent, per_position(v, dims)).mul_(per_position(scale, dims))
        grad = torch.addcmul(grad, x, per_position(per_channel(pull, x.shape[1]), dims))
        grad = grad.sub_(per_position(per_channel(pull * mean, x.shape[1]), dims))
        return grad, grad_v, grad_weight, grad_bias, None, None


def _totals(x: Tensor) -> Tensor:
    """Sum per channel."""
    return x.sum((0, *range(2, x.dim())))
