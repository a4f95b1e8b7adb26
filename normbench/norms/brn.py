"""Batch renormalization."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench.norms._batch import BatchLayer, repeated
from normbench.norms._batch_moments import centre, standardize
from normbench.norms._moments import frozen
from normbench.norms._statistics import BatchStatistics
from normbench.norms._sums import at_least_float32, by_moments
from normbench.parts.options import option

SCHEDULE = {"start": 5000, "rmax_end": 40000, "dmax_end": 25000}  # the paper's, for long runs


@dataclass(frozen=True)
class BRN(BatchStatistics):
    """Batch renormalization: batch normalization corrected towards the running statistics.

    y = ((x - mean) / dev * r + d) * weight + bias;  dev = sqrt(var + eps),
    r = clip(dev / R, 1 / rmax(t), rmax(t)), d = clip((mean - running_mean) / R, -dmax(t), dmax(t)),
    both without gradient, R = max(running_std, sqrt(eps)), from the statistics before the update;
    x: (N, C, ...); mean, var: (C,) over samples and positions, var biased; weight, bias: (C,).
    Evaluation takes running_mean and R, which follow mean and dev. With t training forwards done,
    rmax(t) rises linearly from 1 at `start` to rmax at `rmax_end`, dmax(t) from 0 at `start` to
    dmax at `dmax_end`; an end that is not after `start` means the final value from `start` on.
    Before `start` the training is that of bn.

    Args: eps: added to the variance. momentum: weight of the new value in the running statistics,
        per optimizer step, or per micro-batch with momentum_per=forward. rmax, dmax: final limits.
        start, rmax_end, dmax_end: training forwards; or each as a share of those of the run, by the
        name with _share, of which exactly one is set. affine: learn weight and bias. norm_batch:
        samples behind one statistic; `worker` one worker's batch, `global` that of all workers, a
        number less than a worker's share contiguous chunks of it, more the batches of several
        workers.
    Raises: NormError if of a number and its share both or none are set, or a share is left when the
        layer is made; in training if a statistic has a single value.
    Limits: r and d lean on running statistics, which lag where weights move fast; a run shorter
        than the schedule is bn: give shares of the run instead.
    Source: Ioffe 2017, arXiv 1702.03275, algorithm 1; its schedule is for more than 100,000 steps.
    """

    aliases: ClassVar[tuple[str, ...]] = ("batch-renorm",)
    state: ClassVar[str] = "running_mean running_std steps"

    momentum: float = option(0.01, low=0, high=1)
    rmax: float = option(3.0, low=1)
    dmax: float = option(5.0, low=0)
    start: int | None = option(None, low=0)
    rmax_end: int | None = option(None, low=0)
    dmax_end: int | None = option(None, low=0)
    start_share: float | None = option(0.05, low=0, high=1)
    rmax_end_share: float | None = option(0.4, low=0, high=1)
    dmax_end_share: float | None = option(0.25, low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, number, share in self._schedule():
            if (number is None) == (share is None):
                both = "are both null" if number is None else "are both set"
                why = f"{name} and {name}_share {both}, one must be a number"
                fix = f"norm.{name}={SCHEDULE[name]} norm.{name}_share=null"
                raise self.error(name, number, why, fix)

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its running statistics and schedule."""
        for name, number, share in self._schedule():
            if number is None:
                why = "is a share of a run's training forwards, there is no run here"
                fix = f"norm.{name}={SCHEDULE[name]} norm.{name}_share=null"
                raise self.error(f"{name}_share", share, why, fix)
        return BatchRenorm(channels, dims, self)

    def _schedule(self) -> list[tuple[str, int | None, float | None]]:
        return [
            ("start", self.start, self.start_share),
            ("rmax_end", self.rmax_end, self.rmax_end_share),
            ("dmax_end", self.dmax_end, self.dmax_end_share),
        ]


class BatchRenorm(BatchLayer):
    """Batch normalization with a correction whose limits rise with the training forwards."""

    tracked: ClassVar[Mapping[str, float]] = {"running_mean": 0.0, "running_std": 1.0}
    variance: ClassVar[str | None] = None
    running_std: Tensor

    def __init__(self, channels: int, dims: int, options: BRN) -> None:
        super().__init__(channels, dims, options)
        self.options = options

    def limits(self) -> tuple[Tensor, Tensor]:
        """Return rmax(t) and dmax(t), of shape ()."""
        options = self.options
        rmax = 1 + (options.rmax - 1) * self._progress(options.rmax_end)
        return rmax, options.dmax * self._progress(options.dmax_end)

    def normalize(self, x: Tensor, times: int, workers: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Normalize by the moments of the set, corrected within the limits."""
        wide, eps = at_least_float32(x), self.options.eps
        found = centre(wide.detach(), workers)
        mean, dev = found.shift + found.mean, (found.var + eps).sqrt()
        with torch.no_grad():
            old, scale = repeated(self.running_mean, times), repeated(self._floored(), times)
            rmax, dmax = self.limits()
            r = (dev / scale).clamp(1 / rmax, rmax)
            d = ((mean - old) / scale).clamp(-dmax, dmax)
            if self.plain:
                r, d = torch.ones_like(r), torch.zeros_like(d)
            r, d = frozen(r), frozen(d)
        weight, bias = self.gains(times)
        if weight is not None and bias is not None:
            r, d = r * weight, torch.addcmul(bias, d, weight)
        return standardize(wide, found, r, d, eps, workers), (mean, dev)

    def evaluate(self, x: Tensor) -> Tensor:
        """Normalize by the running statistics."""
        mean, var = self.running_mean, self._floored().square()
        return by_moments(x, mean, var, self.weight, self.bias, 0.0)

    def additive(self) -> dict[str, Tensor]:
        """Return the second moment, to which eps belongs, instead of the deviation."""
        values = super().additive()
        square = values["running_std"].square() + values["running_mean"].square()
        return values | {"running_std": square}

    def adopt(self, averages: dict[str, Tensor], count: float) -> None:
        """Take the mean and the deviation around it."""
        square = averages["running_std"] - averages["running_mean"].square()
        super().adopt(averages | {"running_std": square.clamp_min(0).sqrt()}, count)

    def _floored(self) -> Tensor:
        return self.running_std.clamp_min(math.sqrt(self.options.eps))

    def _progress(self, end: int | None) -> Tensor:
        """Return how far the schedule is between its start and `end`, 0 .. 1."""
        start, dtype = self.options.start, self.running_std.dtype
        assert start is not None and end is not None
        if end <= start:
            return (self.steps >= start).to(dtype)
        return ((self.steps - start).to(dtype) / (end - start)).clamp(0, 1)
