"""Cross mini-batch normalization."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench.errors import NormError
from normbench.norms._base import Norm, check_count, check_rank
from normbench.norms._moments import batch_moments, standardized
from normbench.norms._sums import precise
from normbench.options import option


@dataclass(frozen=True)
class CmBN(Norm):
    """Cross mini-batch normalization: statistics joined over the micro-batches of a step so far.

    y = (x - M) / sqrt(V + eps) * weight + bias;  M = (mean_1 + ... + mean_i) / i,
    V = (second_1 + ... + second_i) / i - M^2, at micro-batch i of `window`;  mean_j = E[x],
    second_j = E[x^2] of micro-batch j over samples and positions, detached for j < i; x:
    (N, C, ...); all statistics, weight, bias: (C,). After micro-batch `window`, and after each
    optimizer step, the joining starts anew. Evaluation takes running_mean and running_var, which
    follow M and V (biased) of whole windows.

    Args: window: micro-batches of an optimizer step, equal to the run's `accumulate`; null takes it
        from there. eps: added to the variance. momentum: weight of the new value in the running
        statistics. affine: learn weight and bias. norm_batch: `worker`, or `global` for statistics
        of all workers' micro-batches.
    Raises: NormError in training if a statistic has a single value.
    Source: Bochkovskiy, Wang & Liao 2020, arXiv 2004.10934, section 3.4. Micro-batches weigh the
        same whatever their sizes. The sums of a window are kept in float64. With window=1 the
        training is that of bn.
    """

    bias: ClassVar[bool] = False
    uses_batch: ClassVar[bool] = True
    running: ClassVar[bool] = True
    parameters: ClassVar[str] = "2 C"
    memory_format: ClassVar[str] = "contiguous"

    window: int | None = option(4, low=1)
    eps: float = option(1e-5, low=0)
    momentum: float = option(0.1, low=0, high=1)
    affine: bool = True
    norm_batch: str = option("worker", choices=("worker", "global"))

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its sums over the window."""
        return CrossMiniBatchNorm(channels, dims, self)


class CrossMiniBatchNorm(nn.Module):
    """Normalizes by the statistics of the micro-batches since the last optimizer step."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    steps: Tensor
    index: Tensor
    past: Tensor

    def __init__(self, channels: int, dims: int, options: CmBN) -> None:
        super().__init__()
        if options.window is None:
            why = "is the number of micro-batches of a run's step, here is no run"
            raise NormError("window", None, why, 4)
        self.dims, self.eps, self.momentum = dims, options.eps, options.momentum
        self.window, affine = options.window, options.affine
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("index", torch.tensor(0))
        # the variance is a small difference of these sums: float32 would lose it at a large mean
        self.register_buffer("past", torch.zeros(2, channels, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` and, in training, add its statistics to those of the window."""
        check_rank(self, x, self.dims)
        wide = precise(x)
        mean, var = self.running_mean, self.running_var
        if self.training:
            check_count(self, x.shape, x.shape[0] * math.prod(x.shape[2:]), "per channel")
            mean, var = self._train(*batch_moments(wide))
        return standardized(wide, mean, var, self.eps, (self.weight, self.bias)).to(x.dtype)

    def after_step(self) -> None:
        """Begin a new window: the optimizer has changed what the old sums belong to."""
        self.index.zero_()
        self.past.zero_()

    def _train(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Join the statistics of this micro-batch with those before it, and count it."""
        mean, var = mean.double(), var.double()
        before = self.index.double()
        now = before + 1
        past_mean = self.past[0] / before.clamp_min(1)
        within = (self.past[1] - self.past[0] * past_mean).clamp_min(0)
        gap = mean - past_mean
        joined_mean = mean - gap * (before / now)
        joined_var = (var + within) / now + gap.square() * (before / now.square())
        self._advance(mean.detach(), var.detach(), joined_mean.detach(), joined_var.detach())
        return joined_mean, joined_var

    @torch.no_grad()
    def _advance(self, mean: Tensor, var: Tensor, joined_mean: Tensor, joined_var: Tensor) -> None:
        index = self.index + 1
        done = index == self.window
        momentum = self.momentum * done
        sums = self.past + torch.stack([mean, var + mean.square()])
        self.running_mean.lerp_(joined_mean.to(self.running_mean), momentum)
        self.running_var.lerp_(joined_var.to(self.running_var), momentum)
        self.past.copy_(torch.where(done, 0.0, sums))
        self.index.copy_(torch.where(done, 0, index))
        self.steps.add_(1)
