"""Augmentation of training images: crop, flip and cutout of whole batches, on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from normbench.runtime import rng

PAD = 4  # black pixels around an image before it is cropped
NOISE = 5  # numbers from U(0, 1) for each image, whatever is done to it: runs stay paired


class Augment:
    """Changes images at random: each is moved, mirrored, and has a part of it covered.

    crop: the image with 4 black pixels around it, cut to its size again at one of 9 x 9 places.
    flip: mirrored left to right with probability 1/2. cutout: a square, half as wide as the
    shorter side, around a pixel drawn uniformly, so perhaps partly outside, in the mean colour.
    Crop comes first, cutout last.

    Args: kinds: some of `crop`, `flip`, `cutout`. shape: (C, H, W) of an image. mean: mean colour
    by channel, in 0 .. 1; it is rounded to whole pixel values. device: where the images are.

    Source: He et al. 2016, arXiv 1512.03385, section 4.2, for crop and flip; DeVries & Taylor 2017,
    arXiv 1708.04552, for cutout.
    """

    def __init__(
        self,
        kinds: tuple[str, ...],
        shape: tuple[int, int, int],
        mean: Sequence[float],
        device: torch.device | str = "cpu",
    ) -> None:
        self.kinds, self.shape, self.device = kinds, shape, device
        line = [round(255 * level) for level in mean] * shape[2]
        self.cover = torch.tensor(line, dtype=torch.uint8, device=device)

    def noise(self, seed: int, epoch: int, steps: int, batch: int) -> Tensor:
        """Draw what will happen to the images of an epoch: from U(0, 1), (steps, batch, 5)."""
        random = rng.generator(seed, "augment", epoch)
        return torch.rand(steps, batch, NOISE, generator=random).to(self.device)

    def __call__(self, rows: Tensor, noise: Tensor) -> Tensor:
        """Return new images as `rows`, uint8 (B, H W C), by `noise` (B, 5) in [0, 1)."""
        down, across, mirrored, *middle = noise.unbind(1)
        channels, height, width = self.shape
        x = rows.reshape(-1, height, width * channels)
        if "crop" in self.kinds or "flip" in self.kinds:
            crop = "crop" in self.kinds
            y_from, x_from = _along(height, down, crop), _along(width, across, crop)
            if "flip" in self.kinds:
                x_from = x_from.flip(1).where((mirrored < 0.5).unsqueeze(1), x_from)
            x = _moved(x, y_from, x_from, channels)
        if "cutout" in self.kinds:
            x = self._covered(x, *middle)
        return x.reshape(rows.shape)

    def _covered(self, x: Tensor, down: Tensor, across: Tensor) -> Tensor:
        channels, height, width = self.shape
        side = min(height, width) // 2
        y = _near(height, down, side).unsqueeze(2)
        x_near = _near(width, across, side).repeat_interleave(channels, 1).unsqueeze(1)
        return x ^ ((x ^ self.cover) & y & x_near)  # a quarter of the time of `where`


def _along(length: int, noise: Tensor, crop: bool) -> Tensor:
    """Where each pixel along an axis comes from, (B, length); `length` stands for a black one."""
    here = torch.arange(length, device=noise.device).expand(len(noise), length)
    if not crop:
        return here
    moved = here + (noise * (2 * PAD + 1)).long().unsqueeze(1) - PAD
    return moved.where((moved >= 0) & (moved < length), length)


def _moved(x: Tensor, y_from: Tensor, x_from: Tensor, channels: int) -> Tensor:
    """Take the pixels of x (B, H, W C) from `y_from` (B, H) and `x_from` (B, W)."""
    count, height, across = x.shape
    x = F.pad(x, (0, channels, 0, 1))  # a black pixel at the end of each line, and a black line
    first = torch.arange(0, count * (height + 1), height + 1, device=x.device)
    lines = x.flatten(0, 1).index_select(0, (y_from + first.unsqueeze(1)).flatten())
    places = x_from.unsqueeze(2) * channels + torch.arange(channels, device=x.device)
    places = places.reshape(count, 1, across).expand(count, height, across)
    return lines.reshape(count, height, -1).gather(2, places)


def _near(length: int, noise: Tensor, side: int) -> Tensor:
    """255 for the pixels along an axis that lie in a square around a random one, else 0."""
    start = (noise * length).long().unsqueeze(1) - side // 2
    here = torch.arange(length, device=noise.device)
    return ((here >= start) & (here < start + side)).to(torch.uint8) * 255
