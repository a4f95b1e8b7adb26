"""What every activation shares: how it is built, and its gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.errors import ActivationError
from normbench.parts.options import Options


@dataclass(frozen=True)
class Activation(Options):
    """The options of an activation, and the module that computes it.

    gain: what initializers multiply the deviation of the weights before it by, so that it keeps the
    variance; that of `torch.nn.init.calculate_gain` where torch has one.
    """

    error: ClassVar[type[ActivationError]] = ActivationError
    gain: ClassVar[float] = 1.0

    def build(self, channels: int, dims: int) -> nn.Module:
        """Build the module for features (N, channels, ...) with `dims` spatial axes.

        A module that is none of torch's declares its largest |derivative| as `steepest`: without
        it `diagnose=full` counts neither saturated values nor those in the linear zone.
        """
        raise NotImplementedError
