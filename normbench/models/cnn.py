"""A small convolutional net: the default model."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.models._base import Model, Shape, check_size
from normbench.norms._units import UnitBuilder
from normbench.parts.options import option


@dataclass(frozen=True)
class CNN(Model):
    """Two 3x3 convolutions of 16 and 32 channels, each followed by 2x2 pooling, and a head.

    (C, H, W) -> 16, H, W -> 16, H/2, W/2 -> 32, H/2, W/2 -> 32, H/4, W/4 -> classes.
    20,490 parameters on MNIST without a norm.

    Args: pool: `max` or `avg`, the largest or the mean of each 2x2.
    Raises: ModelError for images smaller than 4x4.
    """

    spatial: ClassVar[bool] = True

    pool: str = option("max", choices=("max", "avg"))

    def build(self, units: UnitBuilder, shape: Shape, classes: int) -> nn.Module:
        """Build for images of at least 4x4."""
        channels, height, width = shape
        check_size("cnn", shape, 4)
        pool = nn.MaxPool2d if self.pool == "max" else nn.AvgPool2d
        return nn.Sequential(
            OrderedDict(
                one=units.conv(channels, 16, 3, padding=1),
                pool1=pool(2),
                two=units.conv(16, 32, 3, padding=1),
                pool2=pool(2),
                flatten=nn.Flatten(),
                head=units.head(32 * (height // 4) * (width // 4), classes),
            )
        )
