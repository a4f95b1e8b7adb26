"""Gaussian error linear unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.activations._base import Activation


@dataclass(frozen=True)
class Gelu(Activation):
    """Gaussian error linear unit: gelu(x) = x Phi(x).

    Phi is the distribution function of the standard normal distribution.

    Source: Hendrycks & Gimpel 2016, arXiv 1606.08415.
    """

    gain: ClassVar[float] = 1.4142135623730951  # sqrt(2)

    def build(self, channels: int, dims: int) -> nn.Module:
        """Build the module."""
        return nn.GELU()
