"""Normal weights that keep variance through the run's activation: the default."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from normbench.inits._base import Init, fans, gain_of
from normbench.parts.options import option


@dataclass(frozen=True)
class KaimingNormal(Init):
    """Normal weights that keep variance through rectified units.

    w ~ N(0, s^2), s = gain / sqrt(fan), b = 0.

    Args: mode: `fan_in` keeps the variance of activations, `fan_out` that of gradients. gain:
        factor on the standard deviation; null is the activation's: sqrt(2) for relu, 5/3 for tanh.
    Source: He et al. 2015, arXiv 1502.01852, eqs. 10 and 14.
    """

    aliases: ClassVar[tuple[str, ...]] = ("he", "he_normal", "msra", "kaiming")

    mode: str = option("fan_in", choices=("fan_in", "fan_out"))
    gain: float | None = option(None, above=0, high=1e30)

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` of a layer before the activation `act`."""
        fan = fans(weight)[self.mode == "fan_out"]
        std = (gain_of(act) if self.gain is None else self.gain) / math.sqrt(fan)
        weight.normal_(0, std, generator=generator)
