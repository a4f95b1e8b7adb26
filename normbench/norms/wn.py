"""Weight normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench.norms._base import Norm
from normbench.norms._weights import Linear, check_rows, column, row_norms
from normbench.parts.options import option


@dataclass(frozen=True)
class WN(Norm):
    """Weight normalization: the length of each weight vector is a parameter of its own.

    y = <g * v / |v|, x> + bias;  v: (out, in, ...), starts as the weight; g: (out,), starts as
    |v|, so that the function is unchanged, or as 1; |v| over all axes but the first. The same in
    training and evaluation.

    With data_init, one batch sets g = init_scale / sqrt(Var[t] + 1e-8) and bias = -E[t] * g before
    training, t = <v / |v|, x> over samples and positions: outputs then have mean 0 and standard
    deviation init_scale. A channel with constant t keeps its g.

    Args: per: `channel`, or `layer` for one g, and the norm of the whole tensor. g: `norm` or
        `one`, what g starts as. data_init: set g and bias from the first batch; null does so unless
        g is `one`, or per is `layer`, which has no such start. init_scale: standard deviation of
        the outputs after it.
    Raises: NormError if a row of the weight is zero, or for data_init with `per=layer` or `g=one`.
    Limits: does not normalize features: their scale is right after data_init, and is not held
        there.
    Source: Salimans & Kingma 2016, arXiv 1602.07868, eqs. 2, 5 and 6.
    """

    aliases: ClassVar[tuple[str, ...]] = ("weight",)
    parameters: ClassVar[str] = "C"

    per: str = option("channel", choices=("channel", "layer"))
    g: str = option("norm", choices=("norm", "one"))
    data_init: bool | None = None
    init_scale: float = option(1.0, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data_init and self.per == "layer":
            raise self.error("data_init", "true", "needs one g per channel", "norm.per=channel")
        if self.data_init and self.g == "one":
            raise self.error("data_init", "true", "sets g, which g=one does too", "null")

    def linear(self, layer: nn.Module) -> nn.Module:
        """Return the layer with its weight as g * v / |v|."""
        plain = self.data_init is False or self.g == "one"
        made: WeightNorm
        if self.per == "layer":
            made = WeightNormPerLayer(layer)
        else:
            made = WeightNorm(layer) if plain else CalibratedWeightNorm(layer, self.init_scale)
        if self.g == "one":
            nn.init.ones_(made.g)
        return made


class WeightNorm(Linear):
    """A linear layer with weight g * v / |v|, one g per output channel."""

    scaled_by: ClassVar[str | None] = "g"
    bias: Tensor | None

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        weight = layer.get_parameter("weight").detach()
        norms = self.norms(weight)
        check_rows(self, norms)
        self.v = nn.Parameter(weight.clone())
        self.g = nn.Parameter(norms)
        self.keep_bias(layer)

    def norms(self, v: Tensor) -> Tensor:
        """Return |v| in the shape of g."""
        return row_norms(v)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` of shape (N, in) or (N, C, H, W)."""
        scale = self.g / self.norms(self.v)
        return self.linear(x, self.v * column(scale, self.v), self.bias)


class WeightNormPerLayer(WeightNorm):
    """A linear layer with weight g * v / |v|, one g for the whole tensor."""

    def norms(self, v: Tensor) -> Tensor:
        """Return |v|, shape ()."""
        norm: Tensor = torch.linalg.vector_norm(v)
        return norm


class CalibratedWeightNorm(WeightNorm):
    """Weight normalization whose g and bias are set from a first batch."""

    def __init__(self, layer: nn.Module, init_scale: float) -> None:
        super().__init__(layer)
        self.init_scale = init_scale

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set g and bias so that the outputs for `x` have mean 0 and deviation init_scale."""
        t = self.linear(x, self.v / column(row_norms(self.v), self.v)).transpose(0, 1).flatten(1)
        # Rounding leaves a little variance in a constant channel: 1/sqrt of it would be a huge g.
        noise = (100 * torch.finfo(t.dtype).eps) ** 2 * t.square().mean(1)
        mean = t.mean(1)
        var = (t - column(mean, t)).square().mean(1)
        g = torch.where(var > noise, self.init_scale / (var + 1e-8).sqrt(), self.g)
        self.g.copy_(g)
        if self.bias is not None:
            self.bias.copy_(-mean * g)
