"""Moving average batch normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from normbench.errors import NormError
from normbench.norms._base import Running, check_rank
from normbench.norms._moments import ema_, frozen
from normbench.norms._statistics import RunningStatistics
from normbench.norms._sums import at_least_float32, channel_sums, per_position
from normbench.norms._weights import Linear
from normbench.parts.options import option

CLIP = 5.0  # the ratio of two root mean squares stays in 1/5 .. 5
UNCLIPPED = 1000  # training forwards before which the ratio is 1


@dataclass(frozen=True)
class MABN(RunningStatistics):
    """Moving average batch normalization: divides by a root mean square averaged over batches.

    y = r z * weight + bias, z = x / sqrt(V + eps);  r = sqrt((V + eps) / (running_var + eps)),
    clipped to 1/5 .. 5, without gradient and 1 in the first max(1000, warmup) training forwards;
    V: (C,) is the average of E[x^2] over the last `window` batches, without gradient; x:
    (N, C, ...); weight, bias: (C,). Backward with g the gradient of z: dx = (g - z G) /
    sqrt(V + eps), G the average of E[g z] over the last `window` batches. In the first
    max(window, warmup - 1) training forwards V and G are those of the batch alone. Evaluation takes
    running_var, which follows V, and r = 1.

    Args: window: batches that are averaged. warmup: training forwards that take their own batch
        only. centre: subtract from each filter of the linear layer its mean, with gradient, because
        no mean is taken from x. eps: added to the mean square. momentum: weight of the new value in
        running_var, per optimizer step, or per micro-batch with momentum_per=forward. affine: learn
        weight and bias.
    Raises: NormError if centre meets a layer whose filters have a single weight.
    Limits: takes no mean from x; settles only after many steps; wants one backward pass for each
        forward, in order.
    Source: Yan, Wan, Zhang, Zhang, Wei & Sun 2020, arXiv 2001.06838. The backward pass writes its
        own window: of two forwards, the first needs its backward before the second has one.
    """

    bias: ClassVar[bool] = True
    state: ClassVar[str] = "running_var steps past_x2 past_gz"
    memory_format: ClassVar[str] = "contiguous"

    window: int = option(16, low=1)
    warmup: int = option(100, low=0)
    centre: bool = True
    momentum: float = option(0.02, low=0, high=1)

    def linear(self, layer: nn.Module) -> nn.Module:
        """Return the layer with centred filters, the layer itself with `centre=False`."""
        return CentredLinear(layer) if self.centre else layer

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its two windows."""
        return MovingAverageBatchNorm(channels, dims, self)


class CentredLinear(Linear):
    """A linear layer whose filters are used without their mean: w - E[w] over the fan-in."""

    scaled_by: ClassVar[str | None] = "weight"
    bias: Tensor | None

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        if self.fan_in == 1:
            raise NormError("centre", "true", f"weight {self.shape} would become 0", "false")
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        self.weight = layer.weight
        self.keep_bias(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` of shape (N, in) or (N, C, H, W)."""
        axes = tuple(range(1, self.weight.dim()))
        weight = self.weight - self.weight.mean(axes, keepdim=True)
        return self.linear(x, weight, self.bias)


class MovingAverageBatchNorm(Running):
    """Divides by a root mean square that is averaged over batches, forward and backward."""

    weight: Tensor | None
    bias: Tensor | None
    running_var: Tensor
    steps: Tensor
    past_x2: Tensor
    past_gz: Tensor

    def __init__(self, channels: int, dims: int, options: MABN) -> None:
        super().__init__()
        self.dims, self.options, self.momentum = dims, options, options.momentum
        affine = options.affine
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("past_x2", torch.zeros(options.window, channels))
        self.register_buffer("past_gz", torch.zeros(options.window, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x`; training writes one window, the backward pass after it the other."""
        check_rank(self, x, self.dims)
        wide = at_least_float32(x)
        weight = torch.ones_like(self.running_var) if self.weight is None else self.weight
        bias = torch.zeros_like(weight) if self.bias is None else self.bias
        if self.training:
            if x.numel() == 0:
                why = f"input {tuple(x.shape)} is an empty batch"
                raise NormError("", type(self).__name__, why, "a larger batch")
            constants = self._train(wide.detach())
            y: Tensor = _DividedByPast.apply(wide, weight, bias, self.past_gz, constants)
        else:
            scale = weight * (self.running_var + self.options.eps).rsqrt()
            y = wide * per_position(scale, self.dims) + per_position(bias, self.dims)
        return y.to(x.dtype)

    @torch.no_grad()
    def _train(self, x: Tensor) -> Tensor:
        """Write the forward window and return the `constants` of `_DividedByPast`."""
        options, t = self.options, self.steps + 1
        squares = vector_norm(x.flatten(2), dim=2).square() if self.dims else x.square()
        now = squares.sum(0) * x.shape[1] / x.numel()
        slot = (torch.arange(options.window, device=x.device) == t % options.window).unsqueeze(1)
        plain = (t <= options.window) | (t < options.warmup) | self.plain
        self.past_x2.copy_(torch.where(slot, now, self.past_x2))
        square = torch.where(plain, now, self.past_x2.mean(0))
        ratio = ((square + options.eps) / (self.running_var + options.eps)).sqrt()
        early = (t <= max(UNCLIPPED, options.warmup)) | self.plain
        ratio = torch.where(early, 1.0, ratio.clamp(1 / CLIP, CLIP))
        ema_(self.running_var, square, self.share(self.momentum))
        self.steps.add_(1)
        inv = (square + options.eps).rsqrt()
        rows = torch.stack([inv, ratio, plain.to(inv.dtype).expand_as(inv)])
        return frozen(torch.cat([rows, slot.to(inv.dtype).expand_as(self.past_gz)]))


class _DividedByPast(torch.autograd.Function):
    """y = r z * weight + bias with z = x * inv, whose gradient averages E[g z] over past batches.

    x: (N, C, ...); weight, bias: (C,); past: (window, C), the E[g z] of past batches; constants:
    (3 + window, C), inv = 1 / root mean square, r, then 1 where the newest batch stands alone, then
    1 in the row of `past` that the backward pass replaces, else 0.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor, constants: Tensor) -> Tensor:
        dims = x.dim() - 2
        return (x * per_position(weight * constants[:2].prod(0), dims)).add_(
            per_position(bias, dims)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x, weight, _, past, constants = inputs
        ctx.save_for_backward(x, weight, past, constants)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, past, constants = ctx.saved_tensors
        inv, ratio, alone = constants[:3]
        products, sums = channel_sums(grad, x)
        grad_weight = products.sum(0) * inv * ratio
        now = weight * grad_weight / (x.numel() // x.shape[1])
        past.copy_(torch.where(constants[3:] > 0, now, past))
        used = torch.where(alone > 0, now, past.mean(0))
        dims = x.dim() - 2
        grad_x = (grad * per_position(weight * ratio * inv, dims)).sub_(
            x * per_position(inv**2 * used, dims)
        )
        return grad_x, grad_weight, sums.sum(0), None, None
