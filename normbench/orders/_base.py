"""What every order shares: how it draws the batches of an epoch, and how they come again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from normbench.errors import OrderError
from normbench.parts.options import Options


@dataclass(frozen=True)
class Order(Options):
    """The options of an order: how the images of an epoch are put into batches, each at most once.

    Within a batch images lie in random order, so that its micro-batches are no more sorted than
    the batch.
    """

    error: ClassVar[type[OrderError]] = OrderError

    def check(self, batch: int, sizes: Sequence[int], label: str) -> None:
        """Raise OrderError if no such batches can be made.

        Args: sizes: training images of each class; label: the data set in words.
        """

    def draw(self, labels: Tensor, shape: tuple[int, int], random: torch.Generator) -> Tensor:
        """Return the indices of the images in each batch, of shape (steps, batch).

        Args: labels: of all images, (N,) on the CPU; shape: (steps, batch), steps batch <= N.
        """
        raise NotImplementedError

    def turns(self, labels: Tensor, random: torch.Generator) -> Tensor:
        """Return in which order the batches of the first epoch come again, (steps,).

        Args: labels: of the images in these batches, (steps, batch).
        """
        return torch.randperm(len(labels), generator=random)


def mixed(order: Tensor, random: torch.Generator) -> Tensor:
    """Put the images of each batch (steps, batch) in random order."""
    return order.gather(1, torch.rand(order.shape, generator=random).argsort(1))
