"""Thresholded linear unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from normbench.activations._base import Activation
from normbench.norms._activations import TLU


@dataclass(frozen=True)
class Tlu(Activation):
    """Thresholded linear unit: tlu(x) = max(x, tau), one learned tau per channel, starting at 0.

    Source: Singh & Krishnan 2020, arXiv 1911.09737, section 3.
    """

    @property
    def gain(self) -> float:
        """Give the gain."""
        return math.sqrt(2)

    def build(self, channels: int, dims: int) -> nn.Module:
        """Build the module."""
        return TLU(channels, dims)
