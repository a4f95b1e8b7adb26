"""Thresholded linear unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.activations._base import Activation
from normbench.norms._activations import TLU


@dataclass(frozen=True)
class Tlu(Activation):
    """Thresholded linear unit: tlu(x) = max(x, tau), one learned tau per channel, starting at 0.

    Source: Singh & Krishnan 2020, arXiv 1911.09737, section 3.
    """

    gain: ClassVar[float] = 1.4142135623730951  # sqrt(2)

    def build(self, channels: int, dims: int) -> nn.Module:
        """Build the module."""
        return TLU(channels, dims)
