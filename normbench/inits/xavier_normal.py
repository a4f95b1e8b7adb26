"""Normal weights whose variance is a compromise between the two directions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from normbench.inits._base import Init, fans, gain_of
from normbench.parts.options import option


@dataclass(frozen=True)
class XavierNormal(Init):
    """Normal weights that keep variance forward and backward as nearly as both can be kept.

    w ~ N(0, s^2), s = gain * sqrt(2 / (fan_in + fan_out)), b = 0. Derived for linear units, close
    for tanh around 0.

    Args: gain: factor on the standard deviation, 1 in the paper for every activation; null is that
        of the activation: sqrt(2) for relu, 5/3 for tanh.
    Source: Glorot & Bengio 2010, AISTATS, eq. 12; the paper draws from a uniform distribution.
    """

    aliases: ClassVar[tuple[str, ...]] = ("glorot", "glorot_normal", "xavier")

    gain: float | None = option(1.0, above=0, high=1e30)

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` of a layer before the activation `act`, which only gain=null looks at."""
        gain = gain_of(act) if self.gain is None else self.gain
        std = gain * math.sqrt(2 / sum(fans(weight)))
        weight.normal_(0, std, generator=generator)
