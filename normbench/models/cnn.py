"""A small convolutional net: the default model."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.models._base import Model, Shape, check_size
from normbench.norms._units import UnitBuilder


@dataclass(frozen=True)
class CNN(Model):
    """Two 3x3 convolutions of 16 and 32 channels, each followed by 2x2 max pooling, and a head.

    (C, H, W) -> 16, H, W -> 16, H/2, W/2 -> 32, H/2, W/2 -> 32, H/4, W/4 -> classes.
    20,490 parameters on MNIST without a norm.

    Raises: ModelError for images smaller than 4x4.
    """

    spatial: ClassVar[bool] = True

    def build(self, units: UnitBuilder, shape: Shape, classes: int) -> nn.Module:
        """Build for images of at least 4x4."""
        channels, height, width = shape
        check_size("cnn", shape, 4)
        return nn.Sequential(
            OrderedDict(
                one=units.conv(channels, 16, 3, padding=1),
                pool1=nn.MaxPool2d(2),
                two=units.conv(16, 32, 3, padding=1),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                head=units.head(32 * (height // 4) * (width // 4), classes),
            )
        )
