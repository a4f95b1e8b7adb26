"""Rectified linear unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.activations._base import Activation


@dataclass(frozen=True)
class Relu(Activation):
    """Rectified linear unit: relu(x) = max(x, 0).

    Source: Nair & Hinton 2010, ICML.
    """

    gain: ClassVar[float] = 1.4142135623730951  # sqrt(2)

    def build(self, channels: int, dims: int) -> nn.Module:
        """Build the module."""
        return nn.ReLU()
