"""The Kaiming initialization as some texts misquote it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from normbench.inits._base import Init, fans


@dataclass(frozen=True)
class KaimingMisquoted(Init):
    """A mistake, kept for comparison: 2/sqrt(fan_in) taken for Kaiming's sqrt(2/fan_in).

    w ~ N(0, 4 / fan_in), b = 0. That is twice the variance that relu needs, so the mean square of
    the signal doubles with each relu layer: a thousandfold in ten. Nobody should use it.

    Source: texts that misquote He et al. 2015, arXiv 1502.01852, eq. 10.
    """

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight`; `act` plays no role."""
        weight.normal_(0, 2 / math.sqrt(fans(weight)[0]), generator=generator)
