"""A stack of dense layers."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from normbench.models._base import Model, Shape
from normbench.norms._units import Unit, UnitBuilder
from normbench.parts.options import option


class Skip(Unit):
    """A unit that adds its output to its input, with the children of `unit`."""

    def __init__(self, unit: Unit) -> None:
        super().__init__(list(unit.named_children()))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (N, C) to x + unit(x)."""
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return x + y


@dataclass(frozen=True)
class MLP(Model):
    """Dense hidden layers of equal width on the flattened image, and a head.

    (C, H, W) -> C H W -> width -> ... -> width -> classes. 99,710 parameters on MNIST without a
    norm: 784 100 + 100 + 2 (100 100 + 100) + 100 10 + 10.

    Args: depth: hidden layers. width: units of each. skip: hidden layers but the first add their
        output to their input, x + act(norm(linear(x))).
    """

    depth: int = option(3, low=1, high=1000)
    width: int = option(100, low=1, high=65536)
    skip: bool = False

    def build(self, units: UnitBuilder, shape: Shape, classes: int) -> nn.Module:
        """Build for images of any size."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        features = math.prod(shape)
        for number in range(1, self.depth + 1):
            unit = units.linear(features, self.width)
            layers[f"layer{number}"] = Skip(unit) if self.skip and number > 1 else unit
            features = self.width
        layers["head"] = units.head(features, classes)
        return nn.Sequential(layers)
