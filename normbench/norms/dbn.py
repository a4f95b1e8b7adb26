"""Decorrelated batch normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.errors import NormError, counted
from normbench.norms._base import divisors
from normbench.norms._whitening import Whitening, WhiteningStatistics


@dataclass(frozen=True)
class DBN(WhiteningStatistics):
    """Decorrelated batch normalization: groups of channels whitened by their batch covariance.

    y = P (x - mean) * weight + bias;  P = (E[z z^T] + eps I)^(-1/2), symmetric (ZCA), z = x - mean;
    x: (N, C, ...); z: (G, d, m), G groups of d = C/G contiguous channels, m samples and positions;
    P: (G, d, d); weight, bias: (C,). Evaluation takes running_mean and running_proj, which follow
    mean and P. The cost grows with d^3: at most 64 channels a group are sensible. Where a group has
    more channels than the filters before it have inputs, only eps bounds P, and evaluation by the
    average of P fails until it has settled: more groups or a larger eps help.

    Args: groups: number of groups, a divisor of C. eps: added to the diagonal of the covariance.
        momentum: weight of the new value in the running statistics, per optimizer step, or per
        micro-batch with momentum_per=forward. affine: learn weight and bias.
    Raises: NormError if groups does not divide C; in training if m <= d, where no covariance has
        full rank.
    Limits: needs more values than channels in a group, and an eigendecomposition for each group and
        step; wide groups evaluate badly in short runs. Where the mean is large, float32 is off by
        up to 5e-7 |mean| / deviation.
    Source: Huang, Yang, Lang & Deng 2018, arXiv 1804.08450. The gradient is taken through the
        inverse root itself, not through single eigenvectors, so equal eigenvalues do no harm. On a
        GPU the eigenvalues make the host wait once per layer and step.
    """

    aliases: ClassVar[tuple[str, ...]] = ("zca",)

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its groups and running statistics."""
        return DecorrelatedBatchNorm(channels, dims, self)


class DecorrelatedBatchNorm(Whitening):
    """Whitening by the symmetric inverse root of the covariance."""

    def check(self, shape: torch.Size, count: int) -> None:
        """Raise NormError unless a covariance of `count` values can have full rank."""
        width = shape[1] // self.groups
        if count <= width:
            enough = [each for each in divisors(shape[1]) if shape[1] // each < count]
            raise NormError(
                "",
                type(self).__name__,
                f"input {tuple(shape)} leaves {counted(count, 'value')} per channel for "
                f"covariances of {width} channels, at least {width + 1} are needed",
                f"norm.groups={enough[0]} or a larger batch" if enough else "a larger batch",
            )

    def projection(self, cov: Tensor) -> Tensor:
        """Return cov^(-1/2)."""
        proj: Tensor = _InverseRoot.apply(cov, self.eps)[0]
        return proj


class _InverseRoot(torch.autograd.Function):
    """The symmetric inverse square root of (..., d, d) whose eigenvalues are at least `low`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, low: float) -> tuple[Tensor, Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        roots = values.clamp_min(low).sqrt()  # rounding can take small ones below
        return (vectors / roots.unsqueeze(-2)) @ vectors.mT, roots, vectors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        roots, vectors = ctx.saved_tensors
        turned = vectors.mT @ (grads[0] + grads[0].mT) @ vectors / 2
        left, right = roots.unsqueeze(-1), roots.unsqueeze(-2)
        turned = -turned / (left * right * (left + right))
        return vectors @ turned @ vectors.mT, None
