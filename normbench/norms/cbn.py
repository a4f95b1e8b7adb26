"""Cross-iteration batch normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from normbench.errors import NormError
from normbench.norms._base import Running, check_count, check_rank
from normbench.norms._batch_moments import Centred, centre
from normbench.norms._joined import Joined, normalize_joined
from normbench.norms._moments import ema_, normalized, unautocast
from normbench.norms._statistics import RunningStatistics
from normbench.norms._sums import at_least_float32
from normbench.norms._weights import Linear
from normbench.parts.options import option


@dataclass(frozen=True)
class CBN(RunningStatistics):
    """Cross-iteration batch normalization: statistics of the last batches, by today's weights.

    y = (z - M) / sqrt(V + eps) * weight + bias, z = linear(x, w);  M = (mean + sum mean') / k,
    V = (second + sum second') / k - M^2, over this batch and k - 1 < `window` stored ones;
    mean = E[z], second = E[z^2] over samples and positions; for a batch stored with weights w_t,
    mean' = mean_t + <dmean_t, w - w_t>, second' = max(second_t + <dsecond_t, w - w_t>, mean'^2),
    where dmean_t and dsecond_t are the derivatives of mean_t and second_t by w_t; nothing of the
    stored batches has a gradient. x: (N, in) or (N, C, H, W); all statistics, weight, bias: (out,);
    derivatives: as w. Evaluation takes running_mean and running_var, which follow mean and the
    unbiased variance of the current batch alone.

    It replaces the linear layer, which has no bias, and keeps 3 (window - 1) copies of its weight.
    Only 1/k of the statistics' gradient is kept, so that weights grow and the running statistics
    lag behind: short runs need `eval_stats=dataset`, a burn-in of about an epoch, weight decay.

    Args: window: batches behind a statistic, the current one counted. burnin: training forwards
        without storing, which are bn; or burnin_share: the share of the run's training forwards;
        exactly one of the two is set. eps: added to the variance. momentum: weight of the new value
        in the running statistics, per optimizer step, or per micro-batch with momentum_per=forward.
        affine: learn weight and bias.
    Raises: NormError for other layers than Linear and Conv2d, in recurrent cells, and in training
        if a statistic has a single value.
    Limits: the correction is of first order and knows only the layer's own weights, so large
        learning rates break it; most of a step's time and memory goes into the derivatives.
    Source: Yao, Cao, Zheng, Huang & Lin 2020, arXiv 2002.05712. The stored means and second moments
        are float64, so it does not run on mps.
    """

    aliases: ClassVar[tuple[str, ...]] = ("cross-iteration",)
    places: ClassVar[tuple[str, ...]] = ("pre",)
    state: ClassVar[str] = (
        "running_mean running_var steps window_mean window_second "
        "window_dmean window_dsecond window_past filled"
    )
    memory_format: ClassVar[str] = "contiguous"

    window: int = option(4, low=1)
    burnin: int | None = option(None, low=0)
    burnin_share: float | None = option(0.1, low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.burnin is None) == (self.burnin_share is None):
            both = "are both null" if self.burnin is None else "are both set"
            why = f"burnin and burnin_share {both}, one must be a number"
            raise self.error("burnin", self.burnin, why, "burnin=0 burnin_share=null")

    def linear(self, layer: nn.Module) -> nn.Module:
        """Return one module for the linear layer and its norm."""
        return CrossIterationBatchNorm(layer, self)

    def over_time(self, channels: int, steps: int) -> nn.Module | None:
        """Refuse: a recurrent cell norms the sum of two linear layers."""
        why = "follows one linear layer, a recurrent cell norms the sum of two"
        raise self.error("", "cbn", why, "norm=bn")


class CrossIterationBatchNorm(Linear):
    """A linear layer without bias and the norm of its output over the last batches."""

    window_mean: Tensor
    window_second: Tensor
    window_dmean: Tensor
    window_dsecond: Tensor
    window_past: Tensor
    filled: Tensor

    def __init__(self, layer: nn.Module, options: CBN) -> None:
        super().__init__(layer)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        if options.burnin is None:
            share = options.burnin_share
            why = "is a share of a run's training forwards, there is no run here"
            raise NormError("burnin_share", share, why, "norm.burnin=0 norm.burnin_share=null")
        self.burnin, self.window = options.burnin, options.window
        if isinstance(layer, nn.Conv2d):
            self.how["padding"] = _padding(layer)
        self.weight = layer.weight
        self.norm = RunningNorm(self.shape[0], options)
        kept = self.window - 1
        # the variance is a small difference of these: float32 would lose it at a large mean
        exact = torch.zeros(kept, self.shape[0], dtype=torch.float64)
        self.register_buffer("window_mean", exact)
        self.register_buffer("window_second", exact.clone())
        for name in ("window_dmean", "window_dsecond", "window_past"):
            self.register_buffer(name, torch.zeros(kept, *self.shape))
        self.register_buffer("filled", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (N, in) or (N, C, H, W) and norm the result; training stores its statistics."""
        check_rank(self, x, len(self.shape) - 2)
        z = self.linear(x, self.weight)
        affine = self.norm.weight, self.norm.bias
        if not self.training:
            mean, var = self.norm.running_mean, self.norm.running_var
            return normalized(at_least_float32(z), mean, var, self.norm.eps, affine).to(z.dtype)
        check_count(self, x.shape, z.numel() // self.shape[0], "per channel")
        found = centre(at_least_float32(z.detach()))
        with torch.no_grad(), unautocast(x):
            joined = self._joined(found)
            self._store(at_least_float32(x.detach()), at_least_float32(z.detach()), found)
        return normalize_joined(z, found, joined, self.norm.eps, affine, 1).to(z.dtype)

    def _joined(self, found: Centred) -> Joined:
        """Join the moments (C,) of this batch with the stored ones, moved to these weights."""
        mean, var = found.shift.double() + found.mean, found.var.double()
        if self.norm.plain:
            return Joined(mean, var, mean.new_ones(()))
        kept = (torch.arange(self.window - 1, device=mean.device) < self.filled).unsqueeze(1)
        step = self.weight - self.window_past
        means = self.window_mean + (self.window_dmean * step).flatten(2).sum(2)
        seconds = self.window_second + (self.window_dsecond * step).flatten(2).sum(2)
        variances = (seconds - means.square()).clamp_min(0)
        share = 1 / (self.filled.double() + 1)
        joined = (mean + (kept * means).sum(0)) * share
        between = (mean - joined).square() + (kept * (means - joined).square()).sum(0)
        return Joined(joined, (var + (kept * variances).sum(0) + between) * share, share)

    def _store(self, x: Tensor, z: Tensor, found: Centred) -> None:
        """Put this batch before the stored ones, the oldest goes; update the running statistics."""
        mean = found.shift.double() + found.mean
        if self.window > 1 and not self.norm.plain:
            storing = self.norm.steps >= self.burnin
            entry = {
                "mean": mean,
                "second": found.var.double() + mean.square(),
                "dmean": self._mean_slope(x, z),
                "dsecond": self._slope(x, z * (2 * self.shape[0] / z.numel()), self.weight),
                "past": self.weight.detach(),
            }
            for name, new in entry.items():
                window = self.get_buffer(f"window_{name}").unbind()
                for row, newer in reversed(list(zip(window, (new, *window[:-1]), strict=True))):
                    row.copy_(torch.where(storing, newer, row) if self.burnin else newer)
            self.filled.add_(storing).clamp_max_(self.window - 1)
        self.norm.update(mean.to(z.dtype), found.var, z.numel() // self.shape[0])

    def _mean_slope(self, x: Tensor, z: Tensor) -> Tensor:
        """Derive E[z] by the weight: the same for all output channels of a group."""
        groups = self.how.get("groups", 1)
        ones = z.new_full((z.shape[0], groups, *z.shape[2:]), self.shape[0] / z.numel())
        slope = self._slope(x, ones, self.weight[:groups])
        return slope.repeat_interleave(self.shape[0] // groups, 0)

    def _slope(self, x: Tensor, upstream: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of the `weight` that maps `x`, given that of its output."""
        if not self.how:
            return upstream.mT @ x
        slope: Tensor = conv2d_weight(x, weight.shape, upstream, **self.how)  # type: ignore[no-untyped-call]
        return slope


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    """Return the padding of a convolution in numbers."""
    if isinstance(layer.padding, tuple):
        return layer.padding
    if layer.padding == "valid":
        return (0, 0)
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if any(width % 2 for width in reach):
        why = f"cannot pad a kernel {tuple(layer.kernel_size)} to the same size on both sides"
        raise NormError("", "CrossIterationBatchNorm", why, "an odd kernel size")
    return tuple(width // 2 for width in reach)


class RunningNorm(Running):
    """The learned scale and shift and the running statistics of a norm."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    steps: Tensor
    variance: ClassVar[str | None] = "running_var"
    unbiased = True

    def __init__(self, channels: int, options: CBN) -> None:
        super().__init__()
        self.eps, self.momentum, affine = options.eps, options.momentum, options.affine
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("steps", torch.tensor(0))

    def update(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the running statistics towards those of a batch of `count` values a channel."""
        ema_(self.running_mean, mean, self.share(self.momentum))
        ema_(self.running_var, var * (count / (count - 1)), self.share(self.momentum))
        self.steps.add_(1)
        self.count = count
