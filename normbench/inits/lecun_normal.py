"""Normal weights that keep variance through linear units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from normbench.inits._base import Init, fans


@dataclass(frozen=True)
class LeCunNormal(Init):
    """Normal weights that keep variance through linear units, the 1/sqrt(n) of early texts.

    w ~ N(0, 1 / fan_in), b = 0. relu halves the mean square of each layer; through tanh it falls
    slowly.

    Source: LeCun, Bottou, Orr & Mueller 1998, Efficient BackProp, section 4.6; any distribution
    there.
    """

    aliases: ClassVar[tuple[str, ...]] = ("lecun",)

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight`; `act` plays no role."""
        weight.normal_(0, 1 / math.sqrt(fans(weight)[0]), generator=generator)
