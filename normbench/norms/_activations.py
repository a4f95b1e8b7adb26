"""The activation that a norm brings and that a run can name as well."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normbench.norms._sums import at_least_float32, channel_sums, per_position


class TLU(nn.Module):
    """Thresholded linear unit: y = max(x, tau), one learned tau per channel, starting at 0.

    Where x = tau the gradient is split evenly between the two. x: (N, C, ...); tau: (C,).
    Source: Singh & Krishnan 2020, arXiv 1911.09737, section 3.
    """

    steepest = 1.0  # largest |derivative|, declared by activations that work on single values

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.tau = nn.Parameter(torch.zeros(channels))
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """Return the elementwise maximum of `x` and its channel's threshold."""
        y: Tensor = _Maximum.apply(x, self.tau.to(x.dtype))
        return y


class _Maximum(torch.autograd.Function):
    """max(x, tau) with tau per channel; torch's own gradient takes ten times as long."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, tau: Tensor) -> Tensor:
        return torch.maximum(x, per_position(tau, x.dim() - 2))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, tau = ctx.saved_tensors
        side = (
            x - per_position(tau, x.dim() - 2)
        ).sign_()  # 1 where x wins, 0 where both are equal
        signed, whole = channel_sums(at_least_float32(grad), at_least_float32(side))
        return side.mul_(grad).add_(grad).mul_(0.5), (whole - signed).sum(0).to(tau.dtype) / 2
