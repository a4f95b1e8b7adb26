"""Three convolutions without pooling: the reference net of the studies on feature maps."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.models._base import Model, Shape, check_size
from normbench.norms._units import UnitBuilder


@dataclass(frozen=True)
class CNN3(Model):
    """Three 3x3 convolutions of 16, 32 and 32 channels, the first two of stride 2, and a head.

    (C, H, W) -> 16, H/2, W/2 -> 32, H/4, W/4 -> 32, H/4, W/4 -> classes, sizes rounded up. The
    maps are flattened, not averaged: short runs then differ less between seeds.

    Raises: ModelError for images smaller than 5x5.
    """

    spatial: ClassVar[bool] = True

    def build(self, units: UnitBuilder, shape: Shape, classes: int) -> nn.Module:
        """Build for images of at least 5x5, whose last maps are 2x2."""
        check_size("cnn3", shape, 5)
        channels, height, width = shape
        return nn.Sequential(
            OrderedDict(
                conv1=units.conv(channels, 16, 3, stride=2, padding=1),
                conv2=units.conv(16, 32, 3, stride=2, padding=1),
                conv3=units.conv(32, 32, 3, padding=1),
                flatten=nn.Flatten(),
                head=units.head(32 * -(-height // 4) * -(-width // 4), classes),
            )
        )
