"""The six convolutions of a well-known MNIST tutorial on batch normalization."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.models._base import Model, Shape, check_size
from normbench.norms._units import UnitBuilder


@dataclass(frozen=True)
class Blog6(Model):
    """Six convolutions, two of them 1x1, with three 2x2 max poolings, and a head.

    3x3-16, pool, 3x3-32, pool, 3x3-64, 1x1-32, 3x3-64, 1x1-32, pool, head; the 3x3 convolutions
    are padded by 1. On MNIST 28 -> 14 -> 7 -> 3, so the head sees 288 numbers: 48,842 parameters
    without a norm, 49,322 with two more for each of the 240 normalized channels (`bias=on`).

    Raises: ModelError for images smaller than 8x8.
    Source: an MNIST tutorial that gives only these counts; the layers are inferred from them.
    """

    spatial: ClassVar[bool] = True

    def build(self, units: UnitBuilder, shape: Shape, classes: int) -> nn.Module:
        """Build for images of at least 8x8."""
        check_size("blog6", shape, 8)
        channels, height, width = shape
        return nn.Sequential(
            OrderedDict(
                conv1=units.conv(channels, 16, 3, padding=1),
                pool1=nn.MaxPool2d(2),
                conv2=units.conv(16, 32, 3, padding=1),
                pool2=nn.MaxPool2d(2),
                conv3=units.conv(32, 64, 3, padding=1),
                conv4=units.conv(64, 32, 1),
                conv5=units.conv(32, 64, 3, padding=1),
                conv6=units.conv(64, 32, 1),
                pool3=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                head=units.head(32 * (height // 8) * (width // 8), classes),
            )
        )
