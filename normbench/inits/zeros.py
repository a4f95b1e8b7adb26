"""All weights zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from normbench.inits._base import Init


@dataclass(frozen=True)
class Zeros(Init):
    """Zero weights: what must not be done, since no unit differs from another.

    w = 0, b = 0. With relu or tanh hidden units and the gradients of all weights are zero: only the
    bias of the last layer learns, and accuracy stays at chance. A sigmoid gives 1/2, so that the
    last layer's weights move, and then the others, but all units of a layer alike.
    """

    random: ClassVar[bool] = False

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` with zeros; nothing is drawn."""
        weight.zero_()
