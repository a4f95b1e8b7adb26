"""Sigmoid linear unit, also called swish."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from normbench.activations._base import Activation


@dataclass(frozen=True)
class Silu(Activation):
    """Sigmoid linear unit, also called swish: silu(x) = x / (1 + exp(-x)).

    Source: Elfwing, Uchibe & Doya 2017, arXiv 1702.03118.
    """

    @property
    def gain(self) -> float:
        """Give the gain."""
        return math.sqrt(2)

    def build(self, channels: int, dims: int) -> nn.Module:
        """Build the module."""
        return nn.SiLU()
