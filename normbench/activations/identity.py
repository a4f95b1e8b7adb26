"""No activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.activations._base import Activation


@dataclass(frozen=True)
class Identity(Activation):
    """No activation: identity(x) = x."""

    gain: ClassVar[float] = 1.0

    def build(self, channels: int, dims: int) -> nn.Module:
        """Build the module."""
        return nn.Identity()
