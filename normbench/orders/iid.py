"""Independent draws: the usual order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from normbench.orders._base import Order


@dataclass(frozen=True)
class Iid(Order):
    """Random permutation of all images in each epoch, cut into batches."""

    def draw(self, labels: Tensor, shape: tuple[int, int], random: torch.Generator) -> Tensor:
        """Draw the batches of an epoch."""
        return torch.randperm(len(labels), generator=random)[: math.prod(shape)].reshape(shape)
