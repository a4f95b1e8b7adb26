"""Batches of images, made on the device: which come when, and what is done to their pixels."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from normbench.engine.sampler import Sampler
from normbench.runtime import collectives, rng

if TYPE_CHECKING:
    from normbench.data._base import Split
    from normbench.engine.augment import Augment
    from normbench.engine.transforms import Scaling

Batch = tuple[Tensor, Tensor]
TOGETHER = 2**16  # pixels that are gathered in one go, which stay in the cache
ALIGNED = 16  # float32 values in 64 bytes


@dataclass(frozen=True)
class BlankSteps:
    """Blank time steps before an image: up to `most` in training, each of `rows` rows of pixels."""

    most: int = 0
    rows: int = 1


@dataclass(frozen=True)
class Sampling:
    """How training images come in batches.

    batch: examples of a step, all workers together; accumulate: micro-batches of a batch; seed: of
    the run, for the order, the blank steps and the augmentation of each epoch.
    """

    sampler: Sampler = Sampler()
    augment: Augment | None = None
    batch: int = 1
    accumulate: int = 1
    seed: int = 0


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
        blank_steps: BlankSteps | None = None,
    ) -> None:
        count, self.channels, self.height, self.width = split.images.shape
        rows = split.images.permute(0, 2, 3, 1).reshape(count, -1)  # a view: they lie like this
        self.rows, self.labels = rows.to(device), split.labels.to(device)
        self.device, self.memory_format = device, memory_format
        self.scaling = scaling.laid_out(self.channels, self.width).to(device)
        self.blank_steps = blank_steps or BlankSteps()
        self.shift: Callable[[Tensor, Sequence[int]], Tensor] | None = None
        self.padding = 0  # blank time steps where nothing else is asked for
        self.sampling = Sampling()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def chance(self) -> float:
        """Give the accuracy of guessing, which is the share of the largest class."""
        return max(self._shares())

    @property
    def chance_loss(self) -> float:
        """Give the least loss of a constant answer: the entropy of the classes' shares, in nats."""
        return -math.fsum(share * math.log(share) for share in self._shares())

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield this worker's batches of an epoch, from batch number `first` on.

        Each begins with its number of blank steps, and is augmented where training is.
        """
        how = self.sampling
        order = self.order(how.seed, epoch, how.batch)
        pad_steps = self.pad_steps(how.seed, epoch, len(order))
        noise = self.augment_noise(how.seed, epoch, *order.shape)
        order = collectives.mine(order, how.accumulate)
        if isinstance(noise, Tensor):
            noise = collectives.mine(noise, how.accumulate)
        size, together = order.shape[1], self._together(order.shape[1])
        for start in range(first, len(order), together):
            stop = start + together
            drawn = noise[start:stop].flatten(0, 1) if isinstance(noise, Tensor) else None
            x, y = self.gather(order[start:stop].flatten(), pad_steps[start], drawn)
            count = len(y) // size
            yield from zip(x.chunk(count), y.chunk(count), strict=True)

    def _together(self, size: int) -> int:
        """Return how many batches of `size` images to gather in one go: small ones cost as little.

        Each has the bits, and begins at a multiple of 64 bytes, as if it were gathered alone.
        """
        values = size * self.rows.shape[1]
        alone = self.blank_steps.most or self.scaling.matrix is not None or values % ALIGNED
        return 1 if alone else max(1, TOGETHER // values)

    def gather(
        self, index: Tensor, pad_steps: int | None = None, noise: Tensor | None = None
    ) -> Batch:
        """Return images (B, C, H, W) and labels (B,) at `index` (B,), after `pad_steps` blank ones.

        Where there is `noise` (B, 5), the images are augmented by it.
        """
        rows = self.rows.index_select(0, index)
        if noise is not None and self.sampling.augment:
            rows = self.sampling.augment(rows, noise)
        numbers = index.tolist() if self.shift else ()
        return self._scaled(rows, pad_steps, numbers), self.labels.index_select(0, index)

    def with_pad_steps(self, pad_steps: int) -> Feed:
        """Return a feed of the same images that usually come after so many blank steps."""
        other = copy.copy(self)
        other.padding = pad_steps
        return other

    def for_training(self, sampling: Sampling) -> Feed:
        """Return a feed of the same images that come in such batches."""
        other = copy.copy(self)
        other.sampling = sampling
        return other

    def with_shift(self, shift: Callable[[Tensor, Sequence[int]], Tensor]) -> Feed:
        """Return a feed whose images are changed before scaling, by `shift(pixels, numbers)`."""
        other = copy.copy(self)
        other.shift = shift
        return other

    def only(self, chosen: Tensor) -> Feed:
        """Return a feed of the images that are `chosen`, bool (N,)."""
        other = copy.copy(self)
        where = chosen.to(self.device)
        other.rows, other.labels = self.rows[where], self.labels[where]
        return other

    def order(self, seed: int, epoch: int, batch: int) -> Tensor:
        """Return the indices (steps, batch) of an epoch; the incomplete last batch is dropped."""
        return self.sampling.sampler.batches(self.labels, batch, seed, epoch).to(self.device)

    def augment_noise(
        self, seed: int, epoch: int, steps: int, batch: int
    ) -> Tensor | Sequence[None]:
        """Draw what decides how each image of an epoch is augmented, None where none is."""
        augment = self.sampling.augment
        return augment.noise(seed, epoch, steps, batch) if augment else [None] * steps

    def pad_steps(self, seed: int, epoch: int, steps: int) -> list[int]:
        """Draw how many blank time steps each batch of an epoch begins with, uniformly."""
        most = self.blank_steps.most
        if not most:
            return [0] * steps
        random = rng.generator(seed, "blank", epoch)
        return torch.randint(most + 1, (steps,), generator=random).tolist()

    def _shares(self) -> list[float]:
        """The shares of the classes that have images."""
        counts = torch.bincount(self.labels).tolist()
        return [count / len(self) for count in counts if count]

    def _scaled(self, rows: Tensor, pad_steps: int | None, numbers: Sequence[int]) -> Tensor:
        above = (self.padding if pad_steps is None else pad_steps) * self.blank_steps.rows
        if above:
            rows = F.pad(rows, (above * self.width * self.channels, 0))
        shape = (len(rows), above + self.height, self.width, self.channels)
        x = rows.reshape(shape).permute(0, 3, 1, 2).to(torch.float32)
        if self.shift:
            x = self.shift(x, numbers)
        return self.scaling(x).contiguous(memory_format=self.memory_format)
