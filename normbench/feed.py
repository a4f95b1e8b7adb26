"""Batches of images, made on the device: which come when, and what is done to their pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from normbench import seeds

if TYPE_CHECKING:
    from normbench.data._base import Split

Batch = tuple[Tensor, Tensor]


class Feed:
    """Batches of one split, made on the device from its uint8 images.

    The images lie as rows of H*W*C bytes, so that a gathered batch already is channels-last.
    x = (pixel / 255 - mean) / std, in float32, as one multiply and one add.
    """

    def __init__(
        self,
        split: Split,
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        mean, std = statistics
        count, self.channels, self.height, self.width = split.images.shape
        rows = split.images.permute(0, 2, 3, 1).reshape(count, -1)  # a view: they lie like this
        self.rows, self.labels = rows.to(device), split.labels.to(device)
        self.device, self.memory_format = device, memory_format
        scale = [1 / (255 * each) for each in std]
        shift = [-m / s for m, s in zip(mean, std, strict=True)]
        self.scale: Any = scale[0]
        self.shift: Any = shift[0]
        if len(scale) > 1:  # a number per channel; for a single channel a plain number is faster
            self.scale = torch.tensor(scale, device=device).reshape(-1, 1, 1)
            self.shift = torch.tensor(shift, device=device).reshape(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, index: Tensor) -> Batch:
        """Return the images (B, C, H, W) and labels (B,) at `index` (B,)."""
        return self._scaled(self.rows.index_select(0, index)), self.labels.index_select(0, index)

    def slice(self, start: int, stop: int) -> Batch:
        """Return the images and labels from `start` up to `stop`."""
        return self._scaled(self.rows[start:stop]), self.labels[start:stop]

    def order(self, seed: int, epoch: int, batch: int) -> Tensor:
        """Return the indices (steps, batch) of an epoch; the incomplete last batch is dropped."""
        steps = len(self) // batch
        order = torch.randperm(len(self), generator=seeds.generator(seed, "order", epoch))
        return order[: steps * batch].reshape(steps, batch).to(self.device)

    def _scaled(self, rows: Tensor) -> Tensor:
        shape = (len(rows), self.height, self.width, self.channels)
        x = rows.reshape(shape).permute(0, 3, 1, 2).to(torch.float32)
        return x.mul_(self.scale).add_(self.shift).contiguous(memory_format=self.memory_format)
