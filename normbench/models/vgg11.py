"""VGG-11 for small images."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.models._base import Model, Shape, check_size
from normbench.norms._units import UnitBuilder

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # channels of the 3x3 convolutions


@dataclass(frozen=True)
class VGG11(Model):
    """Eight 3x3 convolutions of 64 to 512 channels in five stages with max pooling, and a head.

    64, pool, 128, pool, 256, 256, pool, 512, 512, pool, 512, 512, pool, average, classes.
    Pooling rounds sizes up, so 28x28 images pass as well: 28 -> 14 -> 7 -> 4 -> 2 -> 1. 9,225,610
    parameters on CIFAR-10 without a norm.

    Raises: ModelError for images smaller than 17x17.
    Source: Simonyan & Zisserman 2015, arXiv 1409.1556, table 1, column A. Its two dense layers of
    4096 units are left out, as is usual for small images.
    """

    spatial: ClassVar[bool] = True

    def build(self, units: UnitBuilder, shape: Shape, classes: int) -> nn.Module:
        """Build for images of at least 17x17, whose last convolutions see 2x2."""
        check_size("vgg11", shape, 17)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels, number = shape[0], 0
        for stage, widths in enumerate(STAGES, 1):
            for width in widths:
                number += 1
                layers[f"conv{number}"] = units.conv(channels, width, 3, padding=1)
                channels = width
            layers[f"pool{stage}"] = nn.MaxPool2d(2, ceil_mode=True)
        layers["average"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["head"] = units.head(channels, classes)
        return nn.Sequential(layers)
