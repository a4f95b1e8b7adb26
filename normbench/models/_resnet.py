"""The residual nets for small images, which differ in depth only, and the same without skips."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from normbench.models._base import Model, Shape, check_size
from normbench.norms._units import UnitBuilder

WIDTHS = (16, 32, 64)  # channels of the three stages
Step = Callable[[UnitBuilder, int, int, int], nn.Module]  # makes a block: units, cin, cout, stride


@dataclass(frozen=True)
class ResNet(Model):
    """The base of the residual nets of 6 * blocks + 2 layers.

    A block is y = act(norm(conv(act(norm(conv(x))))) + skip(x)), in another order at `preact`.
    Where the shape changes the skip is a 1x1 convolution (option B), not padding with zeros.

    Source: He, Zhang, Ren & Sun 2016, arXiv 1512.03385, section 4.2; `preact`: arXiv 1603.05027.
    """

    residual: ClassVar[bool] = True
    spatial: ClassVar[bool] = True
    blocks: ClassVar[int]  # of each stage

    def build(self, units: UnitBuilder, shape: Shape, classes: int) -> nn.Module:
        """Build for images of at least 8x8."""
        return build(f"resnet{6 * self.blocks + 2}", units, shape, classes, self.blocks)


class Block(nn.Module):
    """Two 3x3 convolutions and a skip: y = join(two(one(x)) + skip(x)).

    The skip is the identity, or a 1x1 convolution where the shape changes.
    """

    branch = ("one", "two")  # beside the skip, in order

    def __init__(self, units: UnitBuilder, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        changes = stride > 1 or cin != cout
        self.one = units.conv(cin, cout, 3, stride=stride, padding=1)
        self.two = units.conv(cout, cout, 3, padding=1, act=False)
        self.skip = units.shortcut(cin, cout, stride) if changes else nn.Identity()
        self.join = units.join(cout, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (N, cin, H, W) to (N, cout, H / stride, W / stride), sizes rounded up."""
        y: Tensor = self.join(self.two(self.one(x)) + self.skip(x))
        return y


def plain_block(units: UnitBuilder, cin: int, cout: int, stride: int) -> nn.Module:
    """Build two 3x3 convolutions in a row, under the names that a `Block` gives them."""
    return nn.Sequential(
        OrderedDict(
            one=units.conv(cin, cout, 3, stride=stride, padding=1),
            two=units.conv(cout, cout, 3, padding=1),
        )
    )


def build(
    name: str, units: UnitBuilder, shape: Shape, classes: int, blocks: int, block: Step = Block
) -> nn.Module:
    """Build the net of 6 * blocks + 2 layers: a stem, three stages, an average, a head.

    (C, H, W) -> 16, H, W -> 16, H, W -> 32, H/2, W/2 -> 64, H/4, W/4 -> 64 -> classes, sizes
    rounded up. Each stage has `blocks` blocks, the first of the second and third has stride 2.
    Raises: ModelError for images smaller than 8x8, whose last maps are 2x2.
    """
    check_size(name, shape, 8)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = units.stem(shape[0], WIDTHS[0], 3, padding=1)
    channels = WIDTHS[0]
    for stage, width in enumerate(WIDTHS, 1):
        inside: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(1, blocks + 1):
            stride = 2 if number == 1 and stage > 1 else 1
            inside[f"block{number}"] = block(units, channels, width, stride)
            channels = width
        layers[f"stage{stage}"] = nn.Sequential(inside)
    layers["finish"] = units.finish(channels, 2)
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["head"] = units.head(channels, classes)
    return nn.Sequential(layers)
