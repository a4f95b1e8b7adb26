"""ResNet-32 for small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from normbench.models._resnet import ResNet


@dataclass(frozen=True)
class ResNet32(ResNet):
    """Residual net of 32 layers for small images: three stages of 5 blocks, 16, 32, 64 channels.

    A block is y = act(norm(conv(act(norm(conv(x))))) + skip(x)), in another order at `preact`.
    466,906 parameters on CIFAR-10 with two per normalized channel.

    Raises: ModelError for images smaller than 8x8.
    Source: He, Zhang, Ren & Sun 2016, arXiv 1512.03385, section 4.2; `preact`: arXiv 1603.05027.
    Where the shape changes the skip is a 1x1 convolution (option B), not padding with zeros.
    """

    blocks: ClassVar[int] = 5
