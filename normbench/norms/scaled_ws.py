"""Scaled weight standardization."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench.norms._base import Norm
from normbench.norms._weights import Standardized, column, row_norms
from normbench.parts.options import option


@dataclass(frozen=True)
class ScaledWS(Norm):
    """Scaled weight standardization: filters of mean 0 whose length keeps the signal's variance.

    y = <gain * gamma / sqrt(fan_in) * (w - mean) / sqrt(var + eps), x> + bias;  w: (out, in, ...);
    mean, var: (out,) over all axes but the first, var biased; gain: (out,), starts at 1. The same
    in training and evaluation.

    Args: eps: added to the variance. gamma: constant of the activation that follows;
        1.7139588594436646 is the published one for relu. affine: learn gain.
    Raises: NormError for a fan-in of 1.
    Limits: keeps variances at the start and for the activation that gamma is made for; later
        nothing holds them.
    Source: Brock, De & Smith 2021, arXiv 2101.08692, eq. 4 and section 4.2.
    """

    aliases: ClassVar[tuple[str, ...]] = ("nf",)
    parameters: ClassVar[str] = "C"

    eps: float = option(1e-6, low=0)
    gamma: float = option(1.0, above=0)
    affine: bool = True

    def linear(self, layer: nn.Module) -> nn.Module:
        """Return the layer with its weight standardized and scaled."""
        return ScaledWeightStandardization(layer, self)


class ScaledWeightStandardization(Standardized):
    """A linear layer with standardized filters of length gain * gamma."""

    scaled_by: ClassVar[str | None] = "gain"
    gain: Tensor | None

    def __init__(self, layer: nn.Module, options: ScaledWS) -> None:
        super().__init__(layer, options.eps)
        self.scale = options.gamma / math.sqrt(self.fan_in)
        gain = nn.Parameter(torch.ones_like(row_norms(self.weight)))
        self.register_parameter("gain", gain if options.affine else None)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` of shape (N, in) or (N, C, H, W)."""
        weight = self.standardized() * self.scale
        if self.gain is not None:
            weight = weight * column(self.gain, weight)
        return self.linear(x, weight, self.bias)
