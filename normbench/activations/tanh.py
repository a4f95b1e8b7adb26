"""Hyperbolic tangent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.activations._base import Activation


@dataclass(frozen=True)
class Tanh(Activation):
    """Hyperbolic tangent: tanh(x) = (exp(x) - exp(-x)) / (exp(x) + exp(-x)).

    Source: LeCun, Bottou, Orr & Müller 1998, Efficient BackProp.
    """

    gain: ClassVar[float] = 1.6666666666666667  # 5 / 3

    def build(self, channels: int, dims: int) -> nn.Module:
        """Build the module."""
        return nn.Tanh()
