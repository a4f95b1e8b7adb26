"""Normalization by the statistics of a batch joined with stored ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from normbench.norms._batch_moments import Centred, over_workers
from normbench.norms._moments import frozen
from normbench.norms._sums import at_least_float32, channel_sums, per_position


class Joined(NamedTuple):
    """Mean and biased variance (C,), in float64, of k batches, and the share 1/k of the newest."""

    mean: Tensor
    var: Tensor
    share: Tensor


def normalize_joined(
    x: Tensor,
    found: Centred,
    joined: Joined,
    eps: float,
    affine: tuple[Tensor | None, Tensor | None],
    workers: int,
) -> Tensor:
    """Return (x - mean) / sqrt(var + eps) * weight + bias with the gradient of the newest batch.

    The joined mean and second moment depend on those of `x` with weight `share`; on stored batches
    there is no gradient.

    Args: x: (N, C, ...); found: `centre(x, workers)`; affine: weight and bias (C,) or None.
    """
    left = found.x
    inverse = (joined.var + eps).rsqrt().to(left.dtype)
    mean = (joined.mean - found.shift.double()).to(left.dtype)  # of what is left of x
    weight = torch.ones_like(inverse) if affine[0] is None else affine[0]
    bias = torch.zeros_like(inverse) if affine[1] is None else affine[1]
    share = joined.share.to(left.dtype).expand_as(mean)
    constants = frozen(torch.stack([mean, inverse, share]))
    y: Tensor = _Joined.apply(
        at_least_float32(x), left, found.mean, found.values, constants, weight, bias, workers
    )
    return y


class _Joined(torch.autograd.Function):
    """y = (left - mean) * inverse * weight + bias, with gradients through the newest moments.

    x: (N, C, ...); left: x minus a constant; own: (C,) the mean of `left` in this batch; values:
    how many are behind it; constants: (3, C), of all batches the mean of `left`, inverse
    = 1 / sqrt(var + eps), and the share 1/k of this batch.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, left: Tensor, own: Tensor, values: Tensor, *rest: Any) -> Tensor:
        constants, weight, bias, _ = rest
        mean, inverse, _ = constants
        scale, dims = inverse * weight, x.dim() - 2
        return (left * per_position(scale, dims)).add_(per_position(bias - mean * scale, dims))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, left, own, values, constants, weight, _, ctx.workers = inputs
        ctx.save_for_backward(left, own, values, constants, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left, own, values, constants, weight = ctx.saved_tensors
        mean, inverse, share = constants
        products, of_bias = (sums.sum(0) for sums in channel_sums(grad, left))
        of_weight = inverse * (products - mean * of_bias)
        scale = inverse * weight
        of_var = -share * scale * inverse * of_weight / 2
        of_mean = 2 * (own - mean) * of_var - share * scale * of_bias
        both = over_workers(torch.stack([of_mean, of_var]) / values, ctx.workers)
        slope, dims = 2 * both[1], left.dim() - 2
        grad_x = (grad * per_position(scale, dims)).add_(left * per_position(slope, dims))
        grad_x.add_(per_position(both[0] - slope * own, dims))
        return grad_x, *[None] * 4, of_weight, of_bias, None
