"""Online normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.errors import NormError
from normbench.norms._base import Norm, Running, check_count, check_rank
from normbench.norms._moments import frozen, normalized, row_moments
from normbench.norms._sums import at_least_float32, channel_sums, per_position
from normbench.norms._uncentred import RootMeanSquare
from normbench.parts.options import option


@dataclass(frozen=True)
class Online(Norm):
    """Online normalization: each sample by the running statistics of all samples before it.

    z_t = y_t / sqrt(E[y_t^2] + eps), y_t = u_t * weight + bias, u_t = (x_t - mean) / dev;
    x: (N, C, ...), its samples t one after the other; E over the channels and positions of a
    sample; weight, bias: (C,). mean = running_mean and dev = sqrt(running_var + eps) are those
    before the sample, of which afterwards, with m and v its own mean and biased variance (C,),

        running_var = (1 - a) running_var + a v + a (1 - a) (m - running_mean)^2,
        running_mean = (1 - a) running_mean + a m,  a = momentum.

    Backward a controller keeps the gradient orthogonal to u and to 1 on average over samples. With
    g_t the gradient of u_t, E_p the mean over positions, b = control, and e, f the two rows of
    `errors`, which start at 0: h_t = g_t - b e u_t, then e = e + E_p[h_t u_t]; dx_t = h_t / dev -
    b f, then f = f + E_p[dx_t]. Evaluation takes the running statistics as they are.

    Args: momentum: weight of a sample's values in the running statistics. control: gain of the
        controller. layer_scale: divide by the root mean square of the sample. eps: added to
        variances and mean squares. affine: learn weight and bias.
    Raises: NormError if layer_scale meets a sample of a single value, or the batch is empty.
    Limits: the statistics lag by about 1 / momentum samples; one backward pass for each forward.
    Source: Chiley et al. 2019, arXiv 1905.05894, equations 6 to 12, with momentum = 1 - alpha_f and
        control = 1 - alpha_b. However a batch is cut, its samples see the same.
    """

    uses_batch: ClassVar[bool] = True
    running: ClassVar[bool] = True
    parameters: ClassVar[str] = "2 C"
    state: ClassVar[str] = "running_mean running_var errors"
    memory_format: ClassVar[str] = "contiguous"

    momentum: float = option(0.001, low=0, high=1)
    control: float = option(0.01, low=0, high=1)
    layer_scale: bool = True
    eps: float = option(1e-5, low=0)
    affine: bool = True

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its running statistics and its controller."""
        return OnlineNorm(channels, dims, self)


class OnlineNorm(Running):
    """Normalizes sample after sample by running statistics, in one pass over the batch."""

    variance: ClassVar[str | None] = "running_var"
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    errors: Tensor

    def __init__(self, channels: int, dims: int, options: Online) -> None:
        super().__init__()
        self.dims, self.options = dims, options
        if options.layer_scale and dims == 0:
            check_count(self, (1, channels), channels, "per sample")
        affine = options.affine
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("errors", torch.zeros(2, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` of shape (N, C, ...); its backward pass moves the controller."""
        check_rank(self, x, self.dims)
        wide, eps = at_least_float32(x), self.options.eps
        if self.training:
            if x.numel() == 0:
                why = f"input {tuple(x.shape)} is an empty batch"
                raise NormError("", type(self).__name__, why, "a larger batch")
            mean, var = self._follow(wide.detach())
            y: Tensor = _Controlled.apply(
                wide, mean, (var + eps).rsqrt(), self.errors, self.options.control
            )
            if self.weight is not None and self.bias is not None:
                y = y * per_position(self.weight, self.dims) + per_position(self.bias, self.dims)
        else:
            affine = self.weight, self.bias
            y = normalized(wide, self.running_mean, self.running_var, eps, affine)
        if self.options.layer_scale:
            check_count(self, x.shape, x.shape[1:].numel(), "per sample")
            y = RootMeanSquare.apply(y, None, None, eps, 1)[0]
        return y.to(x.dtype)

    @torch.no_grad()
    def _follow(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Move the running statistics and return those before each sample, (N, C) each."""
        if self.plain:
            self.count = x.numel() // x.shape[1]
            axes = (0, *range(2, x.dim()))
            var, mean = torch.var_mean(x, axes, correction=0)
            self.running_mean.copy_(mean)
            self.running_var.copy_(var)
            return mean.expand(x.shape[:2]), var.expand(x.shape[:2])
        share = self.options.momentum
        means, variances = row_moments(x)
        mean, mean_after = recurrence(1 - share, share * means, self.running_mean)
        added = share * (variances + (1 - share) * (means - mean).square())
        var, var_after = recurrence(1 - share, added, self.running_var)
        mean, var = frozen(mean), frozen(var)
        self.running_mean.copy_(mean_after)
        self.running_var.copy_(var_after)
        return mean, var


def recurrence(factor: Tensor | float, terms: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Return h before each row and after the last one, of h = factor * h + term.

    terms: (N, C); factor: (N, C), or one for all; start: (C,). Takes log2(N) rounds, in each of
    which a row takes in the row that stands for twice as many before it (Hillis & Steele 1986).
    """
    h = torch.cat([start.unsqueeze(0), terms])
    a = torch.cat([torch.ones_like(h[:1]), factor]) if isinstance(factor, Tensor) else factor
    far = 1
    while far < len(h):
        ahead = a[far:] if isinstance(a, Tensor) else a
        h = torch.cat([h[:far], h[far:] + ahead * h[:-far]])
        a = torch.cat([a[:far], ahead * a[:-far]]) if isinstance(a, Tensor) else a * a
        far *= 2
    return h[:-1], h[-1]


class _Controlled(torch.autograd.Function):
    """u = (x - mean) * inv, whose gradient is steered by what those of earlier samples were off.

    x: (N, C, ...); mean, inv: (N, C), without gradient; errors: (2, C), moved by the backward pass.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, mean: Tensor, inv: Tensor, errors: Tensor, control: float) -> Tensor:
        dims = x.dim() - 2
        return (x - per_position(mean, dims)).mul_(per_position(inv, dims))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, inv, errors, ctx.control = inputs
        ctx.save_for_backward(output, inv, errors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, inv, errors = ctx.saved_tensors
        b, dims, size = ctx.control, u.dim() - 2, u.shape[2:].numel()
        products, sums = (each / size for each in channel_sums(grad, u))
        squares, means = (each / size for each in channel_sums(u, u))
        off, off_after = recurrence(1 - b * squares, products, errors[0])
        terms = (sums - b * off * means) * inv
        shift, shift_after = recurrence(1 - b, terms, errors[1])
        errors.copy_(torch.stack([off_after, shift_after]))
        grad_x = (grad * per_position(inv, dims)).sub_(u * per_position(b * off * inv, dims))
        return grad_x.sub_(per_position(b * shift, dims)), None, None, None, None
