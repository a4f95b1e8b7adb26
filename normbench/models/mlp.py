"""A stack of dense layers."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from normbench.models._base import Model, Shape
from normbench.norms._units import UnitBuilder
from normbench.parts.options import option


@dataclass(frozen=True)
class MLP(Model):
    """Dense hidden layers of equal width on the flattened image, and a head.

    (C, H, W) -> C H W -> width -> ... -> width -> classes. 99,710 parameters on MNIST without a
    norm: 784 100 + 100 + 2 (100 100 + 100) + 100 10 + 10.

    Args: depth: hidden layers. width: units of each.
    """

    depth: int = option(3, low=1, high=1000)
    width: int = option(100, low=1, high=65536)

    def build(self, units: UnitBuilder, shape: Shape, classes: int) -> nn.Module:
        """Build for images of any size."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        features = math.prod(shape)
        for number in range(1, self.depth + 1):
            layers[f"layer{number}"] = units.linear(features, self.width)
            features = self.width
        layers["head"] = units.head(features, classes)
        return nn.Sequential(layers)
