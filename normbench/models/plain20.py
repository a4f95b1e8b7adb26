"""The net of ResNet-20 without its skips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.models import _resnet
from normbench.models._base import Model, Shape
from normbench.norms._units import UnitBuilder


@dataclass(frozen=True)
class Plain20(Model):
    """The 19 convolutions of ResNet-20 in a row, without skip connections, and its head.

    Its layers have the names and so the initial weights of ResNet-20's.

    Raises: ModelError for images smaller than 8x8.
    Source: He, Zhang, Ren & Sun 2016, arXiv 1512.03385, section 4.2 (plain nets).
    """

    spatial: ClassVar[bool] = True

    def build(self, units: UnitBuilder, shape: Shape, classes: int) -> nn.Module:
        """Build for images of at least 8x8."""
        block = _resnet.plain_block
        return _resnet.build("plain20", units, shape, classes, blocks=3, block=block)
