"""One class after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from normbench.orders._base import Order, mixed


@dataclass(frozen=True)
class Sorted(Order):
    """One class after the other: all images of the first, then all of the second, up to the last.

    Batches of one epoch that come again stay sorted by class.
    """

    def draw(self, labels: Tensor, shape: tuple[int, int], random: torch.Generator) -> Tensor:
        """Draw the batches of an epoch."""
        kept = torch.randperm(len(labels), generator=random)[: math.prod(shape)]
        return mixed(kept[labels[kept].argsort(stable=True)].reshape(shape), random)

    def turns(self, labels: Tensor, random: torch.Generator) -> Tensor:
        """Return the batches by the first and the last of their classes, equal ones at random."""
        shuffled = super().turns(labels, random)
        first, last = labels[shuffled].amin(1), labels[shuffled].amax(1)
        by_last = last.argsort(stable=True)
        return shuffled[by_last[first[by_last].argsort(stable=True)]]
