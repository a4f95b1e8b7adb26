"""Cross mini-batch normalization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench.errors import Mistake, NormError
from normbench.norms._base import Norm
from normbench.norms._batch import BatchLayer, StatGroups
from normbench.norms._batch_moments import centre
from normbench.norms._joined import Joined, normalize_joined
from normbench.norms._moments import ema_, normalized
from normbench.norms._sums import at_least_float32
from normbench.parts.options import option


@dataclass(frozen=True)
class CmBN(Norm):
    """Cross mini-batch normalization: statistics joined over the micro-batches of a step so far.

    y = (x - M) / sqrt(V + eps) * weight + bias;  M = (mean_1 + ... + mean_i) / i,
    V = (second_1 + ... + second_i) / i - M^2, at micro-batch i of `window`;  mean_j = E[x],
    second_j = E[x^2] of micro-batch j over samples and positions, detached for j < i; x:
    (N, C, ...); all statistics, weight, bias: (C,). After micro-batch `window`, and after each
    optimizer step, the joining starts again. Evaluation takes running_mean and running_var, which
    follow M and V (biased) of whole windows.

    Args: window: micro-batches that are joined, a divisor of the run's `accumulate`, which null
        takes. eps: added to the variance. momentum: weight of the new value in the running
        statistics. affine: learn weight and bias. norm_batch: samples behind the statistics of a
        micro-batch; `worker` one worker's, `global` those of all workers, a number the batches of
        several workers, never less than a worker's share.
    Raises: NormError in training if a statistic has a single value.
    Limits: with `accumulate=1` it is bn; the first micro-batches of a step see fewer samples than
        the last.
    Source: Bochkovskiy, Wang & Liao 2020, arXiv 2004.10934, section 3.4. Micro-batches weigh the
        same whatever their sizes. The sums of a window are float64, so it does not run on mps.
        With window=1 the training is that of bn.
    """

    bias: ClassVar[bool] = False
    uses_batch: ClassVar[bool] = True
    running: ClassVar[bool] = True
    parameters: ClassVar[str] = "2 C"
    state: ClassVar[str] = "running_mean running_var steps index past"
    memory_format: ClassVar[str] = "contiguous"

    window: int | None = option(1, low=1)
    eps: float = option(1e-5, low=0)
    momentum: float = option(0.1, low=0, high=1)
    affine: bool = True
    norm_batch: int | str = option("worker", low=1, choices=("worker", "global"))

    def resolve(self, accumulate: int) -> Norm:
        """Return the norm with the window of a run.

        Raises: NormError if a step is not a whole number of windows.
        """
        if self.window is None:
            return replace(self, window=accumulate)
        if accumulate % self.window:
            why = f"does not divide the run's micro-batches per step, accumulate={accumulate}"
            raise NormError("window", self.window, why, accumulate)
        return self

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its sums over the window."""
        return CrossMiniBatchNorm(channels, dims, self)

    def warnings(self, model: nn.Module, beside: Sequence[Norm] = ()) -> list[Mistake]:
        """Return a warning if the window is a single micro-batch."""
        why = "cmbn with one micro-batch per step trains as bn does"
        return [Mistake("accumulate=1", why, "accumulate=4")] if self.window == 1 else []


class CrossMiniBatchNorm(BatchLayer):
    """Normalizes by the statistics of the micro-batches since the last optimizer step."""

    chunks = False
    index: Tensor
    past: Tensor

    def __init__(self, channels: int, dims: int, options: CmBN) -> None:
        super().__init__(channels, dims, options)
        if options.window is None:
            why = "is the number of micro-batches of a run's step, there is no run here"
            raise NormError("window", None, why, 4)
        self.eps, self.window = options.eps, options.window
        self.register_buffer("index", torch.tensor(0))
        # the variance is a small difference of these sums: float32 would lose it at a large mean
        self.register_buffer("past", torch.zeros(2, channels, dtype=torch.float64))

    def normalize(self, x: Tensor, times: int, workers: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Normalize by the statistics of this micro-batch joined with those before it.

        Returns: y; the joined mean and variance, and those of this micro-batch.
        """
        found = centre(at_least_float32(x.detach()), workers)
        with torch.no_grad():
            mean, var = found.shift.double() + found.mean, found.var.double()
            joined = self._joined(mean, var)
        affine = self.weight, self.bias
        y = normalize_joined(x, found, joined, self.eps, affine, workers)
        return y, (joined.mean, joined.var, mean, var)

    def _joined(self, mean: Tensor, var: Tensor) -> Joined:
        """Join the moments (C,) of this micro-batch with the sums of those before it."""
        if self.plain:
            return Joined(mean, var, mean.new_ones(()))
        before = self.index.double()
        now = before + 1
        past_mean = self.past[0] / before.clamp_min(1)
        within = (self.past[1] - self.past[0] * past_mean).clamp_min(0)
        gap = mean - past_mean
        joined_var = (var + within) / now + gap.square() * (before / now.square())
        return Joined(mean - gap * (before / now), joined_var, 1 / now)

    def evaluate(self, x: Tensor) -> Tensor:
        """Normalize by the running statistics."""
        statistics = self.running_mean, self.running_var
        return normalized(at_least_float32(x), *statistics, self.eps, (self.weight, self.bias)).to(
            x.dtype
        )

    def update(self, x: Tensor, groups: StatGroups, new: Sequence[Tensor]) -> None:
        """Add the micro-batch to the sums; at the end of a window update the running statistics."""
        joined_mean, joined_var, mean, var = (moment[0] for moment in new)
        index = self.index + 1
        done = index == self.window
        assert self.momentum is not None
        share = self.share(self.momentum * done.double())
        ema_(self.running_mean, joined_mean, share)
        ema_(self.running_var, joined_var, share)
        sums = self.past + torch.stack([mean, var + mean.square()])
        self.past.copy_(torch.where(done, 0.0, sums))
        self.index.copy_(torch.where(done, 0, index))
        self.steps.add_(1)

    def after_step(self) -> None:
        """Begin a new window: the optimizer has changed what the old sums belong to."""
        self.index.zero_()
        self.past.zero_()
