"""All weights the same number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from normbench.inits._base import Init
from normbench.parts.options import option


@dataclass(frozen=True)
class Constant(Init):
    """Equal weights: the units of a layer start, and stay, copies of each other.

    w = value, b = 0. Each dense layer then works as a single unit.

    Args: value: what every weight starts at.
    """

    random: ClassVar[bool] = False

    value: float = option(0.1, low=-1e30, high=1e30)

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` with the value; nothing is drawn."""
        weight.fill_(self.value)
