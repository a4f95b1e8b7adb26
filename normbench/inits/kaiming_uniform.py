"""Uniform weights that keep variance through the run's activation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from normbench.inits._base import Init, fans, gain_of
from normbench.parts.options import option


@dataclass(frozen=True)
class KaimingUniform(Init):
    """Uniform weights that keep variance through rectified units.

    w ~ U(-a, a), a = gain * sqrt(3 / fan), b = 0. The variance is gain^2 / fan.

    Args: mode: `fan_in` keeps the variance of activations, `fan_out` that of gradients. gain:
        factor on the standard deviation; null is the activation's: sqrt(2) for relu, 5/3 for tanh.
    Source: He et al. 2015, arXiv 1502.01852, eqs. 10 and 14; the paper draws normal weights.
    """

    aliases: ClassVar[tuple[str, ...]] = ("he_uniform",)

    mode: str = option("fan_in", choices=("fan_in", "fan_out"))
    gain: float | None = option(None, above=0, high=1e30)

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` of a layer before the activation `act`."""
        fan = fans(weight)[self.mode == "fan_out"]
        bound = (gain_of(act) if self.gain is None else self.gain) * math.sqrt(3 / fan)
        weight.uniform_(-bound, bound, generator=generator)
