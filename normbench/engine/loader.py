"""Batches of images, made on the device: which come when, and what is done to their pixels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from normbench.engine.sampler import Order
from normbench.runtime import rng

if TYPE_CHECKING:
    from normbench.data._base import Split
    from normbench.engine.augment import Augment
    from normbench.engine.transforms import Scaling

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Blanks:
    """Blank time steps before an image: up to `most` in training, each of `rows` rows of pixels."""

    most: int = 0
    rows: int = 1


class Feed:
    """Batches of one split, made on the device from its uint8 images.

    The images lie as rows of H*W*C bytes, so that a gathered batch already is channels-last. Blank
    time steps before an image are black pixels above it, scaled as all others.
    """

    def __init__(
        self,
        split: Split,
        scaling: Scaling,
        device: torch.device,
        memory_format: torch.memory_format,
        blanks: Blanks | None = None,
    ) -> None:
        count, self.channels, self.height, self.width = split.images.shape
        rows = split.images.permute(0, 2, 3, 1).reshape(count, -1)  # a view: they lie like this
        self.rows, self.labels = rows.to(device), split.labels.to(device)
        self.device, self.memory_format = device, memory_format
        self.scaling = scaling.laid_out(self.channels, self.width).to(device)
        self.blanks = blanks or Blanks()
        self.change: Callable[[Tensor, int], Tensor] | None = None
        self.lead = 0  # blank time steps in `slice`
        self.batches = Order()
        self.augment: Augment | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, index: Tensor, lead: int = 0, chances: Tensor | None = None) -> Batch:
        """Return images (B, C, H, W) and labels (B,) at `index` (B,), after `lead` blank steps.

        Where there are `chances` (B, 5), the images are augmented by them.
        """
        rows = self.rows.index_select(0, index)
        if chances is not None and self.augment:
            rows = self.augment(rows, chances)
        return self._scaled(rows, lead), self.labels.index_select(0, index)

    def slice(self, start: int, stop: int, lead: int | None = None) -> Batch:
        """Return the images and labels from `start` up to `stop`, after `lead` blank steps."""
        x = self._scaled(self.rows[start:stop], self.lead if lead is None else lead, start)
        return x, self.labels[start:stop]

    def led(self, lead: int) -> Feed:
        """Return a feed of the same images that has `lead` blank steps in its slices."""
        other = copy.copy(self)
        other.lead = lead
        return other

    def for_training(self, batches: Order, augment: Augment | None) -> Feed:
        """Return a feed of the same images in batches of that order, which may be augmented."""
        other = copy.copy(self)
        other.batches, other.augment = batches, augment
        return other

    def changed(self, change: Callable[[Tensor, int], Tensor]) -> Feed:
        """Return a feed whose slices are changed before scaling, by `change(pixels, start)`."""
        other = copy.copy(self)
        other.change = change
        return other

    def only(self, chosen: Tensor) -> Feed:
        """Return a feed of the images that are `chosen`, bool (N,)."""
        other = copy.copy(self)
        where = chosen.to(self.device)
        other.rows, other.labels = self.rows[where], self.labels[where]
        return other

    def order(self, seed: int, epoch: int, batch: int) -> Tensor:
        """Return the indices (steps, batch) of an epoch; the incomplete last batch is dropped."""
        return self.batches.batches(self.labels, batch, seed, epoch).to(self.device)

    def chances(self, seed: int, epoch: int, steps: int, batch: int) -> Iterable[Tensor | None]:
        """Draw what will happen to the images of each batch of an epoch, None for nothing."""
        if self.augment is None:
            return [None] * steps
        return self.augment.chances(seed, epoch, steps, batch)

    def leads(self, seed: int, epoch: int, steps: int) -> list[int]:
        """Draw how many blank time steps each batch of an epoch begins with, uniformly."""
        most = self.blanks.most
        if not most:
            return [0] * steps
        random = rng.generator(seed, "blank", epoch)
        return torch.randint(most + 1, (steps,), generator=random).tolist()

    def _scaled(self, rows: Tensor, lead: int, first: int = 0) -> Tensor:
        above = lead * self.blanks.rows
        if above:
            rows = F.pad(rows, (above * self.width * self.channels, 0))
        shape = (len(rows), above + self.height, self.width, self.channels)
        x = rows.reshape(shape).permute(0, 3, 1, 2).to(torch.float32)
        if self.change:
            x = self.change(x, first)
        return self.scaling(x).contiguous(memory_format=self.memory_format)
