"""Rectified linear unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from normbench.activations._base import Activation


@dataclass(frozen=True)
class Relu(Activation):
    """Rectified linear unit: relu(x) = max(x, 0).

    Source: Nair & Hinton 2010, ICML.
    """

    @property
    def gain(self) -> float:
        """Give the gain."""
        return math.sqrt(2)

    def build(self, channels: int, dims: int) -> nn.Module:
        """Build the module."""
        return nn.ReLU()
