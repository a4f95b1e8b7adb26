"""A small learnable data set without files, for tests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from normbench.data._base import (
    SPLITTING,
    Data,
    Dataset,
    DatasetInfo,
    PixelMoments,
    cut,
    mixed,
)
from normbench.parts.options import option

if TYPE_CHECKING:
    from normbench.data._base import Array

USUAL = ((3, 32, 32), 10)  # shape and classes whose digest is known without making the images
USUAL_DIGEST = "9b618abc3b9987000b0a1612a3c740bd8ed0b9620e794e13f06827d176424691"
GRID = 4  # a class is a pattern of GRID x GRID cells per channel
BLOCK = 500  # images made at a time


@dataclass(frozen=True)
class Synthetic(Data):
    """Synthetic images for tests: 2,000/500/500, a shifted pattern per class in noise.

    pixel = clip(128 + contrast * pattern[class, (y + dy) mod H, (x + dx) mod W, c] + noise, 0, 255)
    with 4x4 cells of -8 .. 7 per class and channel; dy and dx, up to an eighth of a side, and
    contrast, 1 .. 4, are drawn per image, noise, -32 .. 31, per pixel. All are integers from a
    fixed seed, so that every machine makes the same bytes.

    Args: shape: channels, height, width. classes: number of classes, equally frequent.
    Raises: DataError if shape is not three numbers.
    """

    images: ClassVar[int] = 3_000
    split: ClassVar[tuple[int, int, int]] = (2_000, 500, 500)

    shape: list[int] = option((3, 32, 32), low=1, high=128)
    classes: int = option(10, low=2, high=100)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.shape) != 3:
            why = f"has {len(self.shape)} numbers, needs channels, height and width"
            raise self.error("shape", str(self.shape).replace(" ", ""), why, "[3,32,32]")

    def about(self) -> DatasetInfo:
        """Tell what is known; makes the images only where shape or classes are not the usual."""
        channels, height, width = shape = self._shape()
        usual = (shape, self.classes) == USUAL
        digest = USUAL_DIGEST if usual else content_digest(shape, self.classes)
        train, val, test = self.split
        sizes = (self.taken(train, self.classes), val, test)
        where = "made when it is used"
        return DatasetInfo("synthetic", shape, self.classes, sizes, digest, True, (), where)

    def load(self) -> Dataset:
        """Make the images, the same on every machine."""
        images, labels = generate(self._shape(), self.classes)
        train, val, _ = self.split
        moments = PixelMoments(self.shape[0])
        moments.add(images[: train + val])
        parts, names = cut(images, labels, self.split), tuple(map(str, range(self.classes)))
        whole = Dataset("synthetic", *parts, names, moments.mean(), moments.std())
        return whole.first(self.taken(train))

    def _shape(self) -> tuple[int, int, int]:
        channels, height, width = self.shape
        return channels, height, width


@cache
def content_digest(shape: tuple[int, int, int], classes: int) -> str:
    """Return the SHA-256 of all images and labels, and of the rule that splits them."""
    images, labels = generate(shape, classes)
    digest = hashlib.sha256(f"{SPLITTING}\n{images.shape}\n".encode())
    digest.update(images.tobytes())
    digest.update(labels.astype("u1").tobytes())
    return digest.hexdigest()


def generate(shape: tuple[int, int, int], classes: int) -> tuple[Array, Array]:
    """Return all images, uint8 (3000, H, W, C), and their labels (3000,)."""
    import numpy as np

    channels, height, width = shape
    count = Synthetic.images
    labels = np.arange(count) % classes
    patterns = _patterns(shape, classes)
    contrast = 1 + (_draw("contrast", count) >> 6).astype(np.int16)
    down = _shifted(np.arange(height), _draw("down", count))
    across = _shifted(np.arange(width), _draw("across", count))
    images = np.empty((count, height, width, channels), np.uint8)
    noise = _draw("noise", images.size).reshape(images.shape)
    for start in range(0, count, BLOCK):
        some = slice(start, start + BLOCK)
        place = labels[some, None, None], down[some, :, None], across[some, None, :]
        signal = patterns[place] * contrast[some, None, None, None]
        noisy = 128 + signal + noise[some].astype(np.int16) // 4 - 32
        images[some] = noisy.clip(0, 255)
    return images, labels


def _patterns(shape: tuple[int, int, int], classes: int) -> Array:
    """Draw the pattern of each class, int16 (classes, H, W, C)."""
    import numpy as np

    channels, height, width = shape
    cells = (_draw("pattern", classes * GRID * GRID * channels) >> 4).astype(np.int16) - 8
    rows, columns = np.arange(height) * GRID // height, np.arange(width) * GRID // width
    return cells.reshape(classes, GRID, GRID, channels)[:, rows][:, :, columns]


def _shifted(places: Array, draws: Array) -> Array:
    """Move `places` (L,) round by up to an eighth of their number: (len(draws), L)."""
    shift = draws.astype(places.dtype) * (len(places) // 8 + 1) >> 8
    moved: Array = (places + shift[:, None]) % len(places)
    return moved


def _draw(purpose: str, count: int) -> Array:
    """Draw bytes 0 .. 255 from counters that begin elsewhere for each purpose."""
    import numpy as np

    start = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:7], "little")
    words = mixed(np.arange(start, start + (count + 7) // 8, dtype=np.uint64))
    return words.astype("<u8").view(np.uint8)[:count]
