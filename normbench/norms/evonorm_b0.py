"""EvoNorm-B0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.norms._batch import BatchLayer
from normbench.norms._batch_moments import moments
from normbench.norms._moments import row_moments
from normbench.norms._statistics import BatchStatistics
from normbench.norms._sums import at_least_float32, channel_sums, per_position, widest
from normbench.parts.options import option


@dataclass(frozen=True)
class EvoNormB0(BatchStatistics):
    """EvoNorm-B0: a norm with batch statistics and the activation after it in one.

    y = x / max(sqrt(var_batch + eps), v * x + sqrt(var_sample + eps)) * weight + bias;
    x: (N, C, ...); var_batch: (C,) over samples and positions, var_sample: (N, C) over positions,
    both biased; v, weight, bias: (C,). Evaluation takes running_var, which follows the unbiased
    batch variance, for var_batch. It stands in the activation's place; there is no other norm.

    Args: eps: added to the variances. momentum: weight of the new value in the running statistics,
        per optimizer step, or per micro-batch with momentum_per=forward; null is the plain average
        of all steps. affine: learn weight and bias; v is always learned. norm_batch: samples behind
        one statistic; `worker` one worker's batch, `global` that of all workers, a number less than
        a worker's share contiguous chunks of it, more the batches of several workers.
    Raises: NormError in training if a statistic has a single value.
    Limits: batch and running statistics have the limits of bn; it replaces the activation, so that
        none can be named. Where the mean is large, float32 gradients are off by up to 5e-7 |mean| /
        deviation.
    Source: Liu, Brock, Simonyan & Le 2020, arXiv 2004.02967, table 2.
    """

    bias: ClassVar[bool] = True
    places: ClassVar[tuple[str, ...]] = ("pre", "preact")
    own_activation: ClassVar[bool] = True
    parameters: ClassVar[str] = "3 C"
    state: ClassVar[str] = "running_var steps"
    memory_format: ClassVar[str] = "contiguous"

    eps: float = option(1e-3, low=0)
    momentum: float | None = option(0.1, low=0, high=1)  # type: ignore[assignment]

    def activation(self, act: nn.Module | None, channels: int, dims: int) -> nn.Module:
        """Return the layer that is both norm and activation."""
        return BatchEvoNorm(channels, dims, self)


class BatchEvoNorm(BatchLayer):
    """Divides by the larger of the batch's deviation and a linear function of the input."""

    tracked: ClassVar[dict[str, float]] = {"running_var": 1.0}
    variance: ClassVar[str | None] = None  # there is no running mean that it is around
    unbiased = True
    center: Tensor  # the mean of the last plain forward, (C,)

    def __init__(self, channels: int, dims: int, options: EvoNormB0) -> None:
        super().__init__(channels, dims, options)
        self.eps = options.eps
        self.v = nn.Parameter(torch.ones(channels))

    def normalize(self, x: Tensor, times: int, workers: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Divide chunks by their own deviations; the running variance follows the unbiased one."""
        wide = at_least_float32(x)
        means, variances = row_moments(wide)
        inside = moments(variances, workers)[0]
        center, between, samples = moments(means, workers)
        if self.plain:
            self.center = widest(center)
        var = inside + between
        count = samples * (x.numel() / means.numel())
        return self._divided(wide, var, variances, times), (var * (count / (count - 1)),)

    def additive(self) -> dict[str, Tensor]:
        """Return the second moment, and the mean beside it."""
        biased = widest(self.running_var) * ((self.count - 1) / self.count)
        return {"running_var": biased + self.center.square(), "center": self.center}

    def adopt(self, averages: dict[str, Tensor], count: float) -> None:
        """Take the variance around the mean of all batches."""
        biased = averages["running_var"] - averages["center"].square()
        self.running_var.copy_(biased.clamp_min(0) * (count / (count - 1)))

    def evaluate(self, x: Tensor) -> Tensor:
        """Divide by the running deviation or the function of the input."""
        wide = at_least_float32(x)
        return self._divided(wide, self.running_var, row_moments(wide)[1], 1).to(x.dtype)

    def _divided(self, x: Tensor, batch: Tensor, sample: Tensor, times: int) -> Tensor:
        floor, offset = (batch + self.eps).sqrt(), (sample + self.eps).sqrt()
        weight = torch.ones_like(self.v) if self.weight is None else self.weight
        bias = torch.zeros_like(self.v) if self.bias is None else self.bias
        learned = (vector.repeat(times) for vector in (self.v, weight, bias))
        y: Tensor = _Divided.apply(x, floor, offset, *learned)
        return y


class _Divided(torch.autograd.Function):
    """y = x / max(floor, v * x + offset) * weight + bias.

    x: (N, C, ...); floor, v, weight, bias: (C,); offset: (N, C).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, floor: Tensor, offset: Tensor, v: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        dims = x.dim() - 2
        divisor = _above(x, floor, offset, v).relu_().add_(per_position(floor, dims))
        return (x / divisor).mul_(per_position(weight, dims)).add_(per_position(bias, dims))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:5])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, floor, offset, v, weight = ctx.saved_tensors
        dims = x.dim() - 2
        above = _above(x, floor, offset, v)
        divisor = above.relu().add_(per_position(floor, dims))
        direct = grad / divisor  # here and below without the factor weight
        of_weight = channel_sums(direct, x)[0].sum(0)
        of_bias = grad.sum((0, *range(2, x.dim())))
        through = (direct * x).div_(divisor)  # what a larger divisor takes away
        linear = torch.ops.aten.threshold_backward(through, above, 0.0)
        of_v, of_offset = channel_sums(linear, x)
        of_floor = through.sum((0, *range(2, x.dim()))) - of_offset.sum(0)
        grad_x = direct.mul_(per_position(weight, dims)).sub_(
            linear.mul_(per_position(v * weight, dims))
        )
        return (
            grad_x,
            -weight * of_floor,
            -weight * of_offset,
            -weight * of_v.sum(0),
            of_weight,
            of_bias,
        )


def _above(x: Tensor, floor: Tensor, offset: Tensor, v: Tensor) -> Tensor:
    """Return by how much the linear function of `x` is above the floor."""
    dims = x.dim() - 2
    above: Tensor = x * per_position(v, dims)
    return above.add_(per_position(offset - floor, dims))
