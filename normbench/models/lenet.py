"""LeNet-5."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.models._base import Model, Shape, check_size
from normbench.norms._units import UnitBuilder


@dataclass(frozen=True)
class LeNet(Model):
    """LeNet-5: two 5x5 convolutions with 2x2 average pooling, two dense layers, and a head.

    5x5-6 padded by 2, pool, 5x5-16, pool, 120, 84, classes. On MNIST 28 -> 14 -> 10 -> 5:
    61,706 parameters without a norm.

    Raises: ModelError for images smaller than 12x12.
    Source: LeCun, Bottou, Bengio & Haffner 1998, Proc. IEEE 86. Its pooling had weights, its
    second convolution saw subsets of the first one's maps, its output layer measured distances
    and its activation was tanh (`activation=tanh`).
    """

    spatial: ClassVar[bool] = True

    def build(self, units: UnitBuilder, shape: Shape, classes: int) -> nn.Module:
        """Build for images of at least 12x12."""
        check_size("lenet", shape, 12)
        channels, height, width = shape
        features = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
        return nn.Sequential(
            OrderedDict(
                conv1=units.conv(channels, 6, 5, padding=2),
                pool1=nn.AvgPool2d(2),
                conv2=units.conv(6, 16, 5),
                pool2=nn.AvgPool2d(2),
                flatten=nn.Flatten(),
                layer1=units.linear(features, 120),
                layer2=units.linear(120, 84),
                head=units.head(84, classes),
            )
        )
