"""Sigmoid linear unit, also called swish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.activations._base import Activation


@dataclass(frozen=True)
class Silu(Activation):
    """Sigmoid linear unit, also called swish: silu(x) = x / (1 + exp(-x)).

    Source: Elfwing, Uchibe & Doya 2017, arXiv 1702.03118.
    """

    gain: ClassVar[float] = 1.4142135623730951  # sqrt(2)

    def build(self, channels: int, dims: int) -> nn.Module:
        """Build the module."""
        return nn.SiLU()
