"""Logistic function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.activations._base import Activation


@dataclass(frozen=True)
class Sigmoid(Activation):
    """Logistic function: sigmoid(x) = 1 / (1 + exp(-x)).

    Source: Rumelhart, Hinton & Williams 1986, Nature 323.
    """

    gain: ClassVar[float] = 1.0

    def build(self, channels: int, dims: int) -> nn.Module:
        """Build the module."""
        return nn.Sigmoid()
