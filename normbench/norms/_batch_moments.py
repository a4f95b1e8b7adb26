"""Moments over samples and positions of all workers, accurate for any mean, with gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from normbench.norms._sums import at_least_float32, by_moments, per_position
from normbench.runtime import collectives


class Centred(NamedTuple):
    """What is left of features (N, C, ...) minus a constant per channel, and its moments.

    `shift` (C,) is the constant, the mean up to rounding; `mean`, `var` (C,) are the moments of
    what is left, so a large mean costs no digits; var is biased, `values` () are behind them.
    """

    x: Tensor
    shift: Tensor
    mean: Tensor
    var: Tensor
    values: Tensor


@torch.no_grad()
def centre(x: Tensor, workers: int = 1) -> Centred:
    """Take the moments of `x`, in float32 or better, in two passes, so that none is lost."""
    total, count = totals(x, workers)
    shift = total / count
    left = x - per_position(shift, x.dim() - 2)
    mean, second = left.sum(_axes(x)), _squares(left)
    if workers > 1:
        mean, second = over_workers(torch.stack([mean, second]), workers).unbind()
    mean = mean / count
    return Centred(left, shift, mean, (second / count - mean.square()).clamp_min(0), count)


def totals(x: Tensor, workers: int = 1) -> tuple[Tensor, Tensor]:
    """Return the sum of `x` over samples and positions of `workers` workers, and their number."""
    total = x.sum(_axes(x))
    count = total.new_full((1,), x.numel() / x.shape[1])
    if workers == 1:
        return total, count[0]
    both = over_workers(torch.cat([total, count]), workers)
    return both[:-1], both[-1].detach()


def moments(x: Tensor, workers: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance (C,) of `x` (N, C, ...) with gradient, and their count."""
    wide = at_least_float32(x)
    found = centre(wide.detach(), workers)
    mean, var = _Moments.apply(wide, *found[1:], workers)
    return mean, var, found.values


def batch_norm(
    x: Tensor,
    like: Tensor,
    gains: tuple[Tensor | None, Tensor | None],
    eps: float,
    workers: int,
) -> tuple[Tensor, Tensor, Tensor, float | Tensor]:
    """Normalize `x` (N, C, ...) by the moments of `workers` workers, then apply weight and bias.

    Args: kind: a tensor of the shape and type of statistics, (C,); gains: weight and bias (C,).
    Returns: y, mean, biased var (C,) without gradient, and the count of values behind them.
    """
    if workers > 1 or eps == 0:  # which torch's kernel refuses
        weight, bias = gains
        found = centre(at_least_float32(x.detach()), workers)
        weight = torch.ones_like(found.mean) if weight is None else weight
        bias = torch.zeros_like(found.mean) if bias is None else bias
        y = standardize(x, found, weight, bias, eps, workers)
        return y, found.shift + found.mean, found.var, found.values
    count = x.numel() / x.shape[1]
    mean, var = torch.zeros_like(like), torch.zeros_like(like)
    y = F.batch_norm(x, mean, var, *gains, True, 1.0, eps)
    return y, mean, var * ((count - 1) / count), count


def standardize(
    x: Tensor, found: Centred, scale: Tensor, shift: Tensor, eps: float, workers: int
) -> Tensor:
    """Return `(x - mean) / sqrt(var + eps) * scale + shift` with gradients through mean and var.

    Args: found: `centre(x)`; scale, shift: (C,), constants or learned values.
    """
    scale, shift = scale.to(found.x.dtype), shift.to(found.x.dtype)
    left, _, mean, var, values = found
    y: Tensor = _Standardize.apply(
        at_least_float32(x), left, mean, var, scale, shift, values, eps, workers
    )
    return y


def over_workers(tensor: Tensor, workers: int) -> Tensor:
    """Return the sum over `workers` workers; the gradient is summed over them as well."""
    if workers == 1:
        return tensor
    total: Tensor = _OverWorkers.apply(tensor, workers)
    return total


class _OverWorkers(torch.autograd.Function):
    """The sum over workers, whose losses are summed as well."""

    @staticmethod
    def forward(tensor: Tensor, workers: int) -> Tensor:
        return collectives.all_reduce_sum(tensor, workers)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.workers = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return over_workers(grad, ctx.workers), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, tensor: Tensor, workers: int) -> tuple[Tensor, int | None]:
        return over_workers(tensor, workers), in_dims[0]  # elementwise: a lane is one more axis


class _Moments(torch.autograd.Function):
    """Mean and variance found by `centre`, with their gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, shift: Tensor, mean: Tensor, var: Tensor, values: Tensor, workers: int
    ) -> tuple[Tensor, Tensor]:
        return shift + mean, var.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, shift, mean, _, values, ctx.workers = inputs
        ctx.save_for_backward(x, shift, mean, values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, mean, values = ctx.saved_tensors
        of_mean, of_var = over_workers(torch.stack(grads) / values, ctx.workers).unbind()
        slope = 2 * of_var
        grad = (x - per_position(shift, x.dim() - 2)) * per_position(
            slope, x.dim() - 2
        ) + per_position(of_mean - slope * mean, x.dim() - 2)
        return grad, None, None, None, None, None


class _Standardize(torch.autograd.Function):
    """The last step of batch normalization on centred values, with the gradient of all steps."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, left: Tensor, *rest: Any) -> Tensor:
        mean, var, scale, shift, _, eps, _ = rest
        return by_moments(left, mean, var, scale, shift, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, left, mean, var, scale, _, values, ctx.eps, ctx.workers = inputs
        ctx.save_for_backward(left, mean, var, scale, values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left, mean, var, scale, values = ctx.saved_tensors
        backward, every = torch.ops.aten.native_batch_norm_backward, [True, True, True]
        root = (var + ctx.eps).rsqrt()
        if ctx.workers == 1:
            found = backward(grad, left, scale, None, None, mean, root, True, ctx.eps, every)
            return _placed(*found)
        # with constant moments first, then what flows through those of all workers
        found = backward(grad, left, scale, mean, var, mean, root, False, ctx.eps, every)
        through, of_scale, of_shift = found
        of_both = over_workers(torch.stack([of_scale, of_shift]) / values, ctx.workers)
        slope = -scale * root.square() * of_both[0]
        offset = -scale * root * of_both[1] - slope * mean
        through = (
            through
            + left * per_position(slope, left.dim() - 2)
            + per_position(offset, left.dim() - 2)
        )
        return _placed(through, of_scale, of_shift)


def _placed(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor | None, ...]:
    """Put the gradients where `_Standardize` takes their tensors."""
    return x, None, None, None, scale, shift, None, None, None


def _axes(x: Tensor) -> tuple[int, ...]:
    return 0, *range(2, x.dim())


def _squares(x: Tensor) -> Tensor:
    """Sum the squares over samples and positions, (C,)."""
    if x.dim() > 2 and x.is_contiguous():  # the fast reduction over the last axis of a CPU tensor
        norms: Tensor = torch.linalg.vector_norm(x.flatten(2), dim=2)
        return norms.square().sum(0)
    return x.square().sum(_axes(x))
