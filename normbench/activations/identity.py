"""No activation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from normbench.activations._base import Activation


@dataclass(frozen=True)
class Identity(Activation):
    """No activation: identity(x) = x."""

    @property
    def gain(self) -> float:
        """Give the gain."""
        return 1.0

    def build(self, channels: int, dims: int) -> nn.Module:
        """Build the module."""
        return nn.Identity()
