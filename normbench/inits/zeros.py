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

    w = 0, b = 0. Hidden units are all zero and so are their gradients: only the bias of the last
    layer learns, and accuracy stays at chance.
    """

    random: ClassVar[bool] = False

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` with zeros; nothing is drawn."""
        weight.zero_()
