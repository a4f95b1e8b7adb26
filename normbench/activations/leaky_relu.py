"""Rectified linear unit with a slope of 0.01 below zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.activations._base import Activation


@dataclass(frozen=True)
class LeakyRelu(Activation):
    """Rectified linear unit with a slope of 0.01 below zero: leaky_relu(x) = max(x, 0.01 x).

    Source: Maas, Hannun & Ng 2013, ICML Workshop.
    """

    gain: ClassVar[float] = 1.4141428569978354  # sqrt(2 / (1 + 0.01**2))

    def build(self, channels: int, dims: int) -> nn.Module:
        """Build the module."""
        return nn.LeakyReLU()
