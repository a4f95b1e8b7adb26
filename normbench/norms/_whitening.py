"""The base of norms that decorrelate groups of channels: covariances, projections, state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.norms._base import Running, check_count, check_rank, groups_of
from normbench.norms._moments import ema_, unautocast
from normbench.norms._statistics import RunningStatistics
from normbench.norms._sums import at_least_float32, widest
from normbench.parts.options import option


@dataclass(frozen=True)
class WhiteningStatistics(RunningStatistics):
    """The options of norms that whiten groups of channels.

    Args: groups: number of groups, a divisor of C.
    """

    state: ClassVar[str] = "running_mean running_proj steps"
    memory_format: ClassVar[str] = "contiguous"

    groups: int = option(1, low=1)


class Whitening(Running):
    """Whitens groups of channels: y = P (x - mean) * weight + bias, P from the covariance.

    x: (N, C, ...); mean: (G, d, 1), P: (G, d, d) for G groups of d = C/G contiguous channels.
    """

    weight: Tensor | None
    bias: Tensor
    running_mean: Tensor
    running_proj: Tensor
    steps: Tensor
    cov: Tensor  # of the last plain forward, (G, d, d)

    def __init__(self, channels: int, dims: int, options: WhiteningStatistics) -> None:
        super().__init__()
        self.dims, self.eps, self.momentum = dims, options.eps, options.momentum
        self.groups = groups_of(options.groups, channels)
        width, affine = channels // self.groups, options.affine
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)
        self.register_buffer("running_mean", torch.zeros(self.groups, width, 1))
        self.register_buffer("running_proj", torch.eye(width).repeat(self.groups, 1, 1))
        self.register_buffer("steps", torch.tensor(0))

    def check(self, shape: torch.Size, count: int) -> None:
        """Raise NormError if `count` values per channel are too few for a training forward."""
        check_count(self, shape, count, "per channel")

    def projection(self, cov: Tensor) -> Tensor:
        """Return the projections (G, d, d) for the covariances `cov` (G, d, d)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Whiten `x` and, in training, update the running statistics."""
        check_rank(self, x, self.dims)
        if self.training:
            self.check(x.shape, x.shape[0] * math.prod(x.shape[2:]))
        with unautocast(x):
            columns = self._columns(at_least_float32(x))
            if self.training:
                z, proj = self._train(columns)
            else:
                z, proj = columns - self.running_mean, self.running_proj
            if self.weight is None:
                y = proj @ z
            else:
                shape = self.running_mean.shape
                y = (self.weight.view(shape) * proj) @ z + self.bias.view(shape)
        return self._restored(y, x.shape).to(x.dtype)

    def _train(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        mean = columns.detach().mean((0, -1), keepdim=True)
        z, cov = _Centred.apply(columns, mean)
        proj = self.projection(self._regular(cov))
        if self.plain:
            self.cov = widest(cov)
        with torch.no_grad():
            ema_(self.running_mean, mean[0], self.share(self.momentum))
            ema_(self.running_proj, proj, self.share(self.momentum))
            self.steps.add_(1)
        return z, proj

    def additive(self) -> dict[str, Tensor]:
        """Return the mean and the second moments, from which the projection follows."""
        mean = widest(self.running_mean)
        return {"running_mean": mean, "moments": self.cov + mean @ mean.mT}

    def adopt(self, averages: dict[str, Tensor], count: float) -> None:
        """Take the mean, and the projection of the covariance around it."""
        mean = averages["running_mean"]
        cov = averages["moments"] - mean @ mean.mT
        self.running_mean.copy_(mean)
        self.running_proj.copy_(self.projection(self._regular(cov)))

    def _regular(self, cov: Tensor) -> Tensor:
        return cov + self.eps * torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)

    def _columns(self, x: Tensor) -> Tensor:
        """View `x` as (B, G, d, K): a matrix per sample, or one for all if maps are small."""
        samples, channels, width = x.shape[0], x.shape[1], x.shape[1] // self.groups
        if math.prod(x.shape[2:]) >= width:
            return x.reshape(samples, self.groups, width, -1)
        return x.transpose(0, 1).reshape(1, self.groups, channels // self.groups, -1)

    def _restored(self, y: Tensor, shape: torch.Size) -> Tensor:
        if math.prod(shape[2:]) >= shape[1] // self.groups:
            return y.reshape(shape)
        return y.reshape(shape[1], shape[0], *shape[2:]).transpose(0, 1)


class _Centred(torch.autograd.Function):
    """Columns (B, G, d, K) minus their mean, and the covariance (G, d, d) of the result.

    The mean is taken outside and counts as part of this function: its gradient is in that of x.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(columns: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        z = columns - mean
        count = z.shape[0] * z.shape[-1]
        return z, (z @ z.mT).sum(0) / count

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        ctx.save_for_backward(output[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        count = z.shape[0] * z.shape[-1]
        both = (grads[1] + grads[1].mT) / count
        grad = grads[0] + both @ z
        return grad - grad.mean((0, -1), keepdim=True), None
