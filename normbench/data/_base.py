"""The base of data sets: their parts on the device, what is known without loading, splits.

Nothing here imports torch or numpy before a set is loaded: a plan asks only for `DatasetInfo`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from normbench.errors import DataError
from normbench.parts.options import Options, option

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from normbench.data._remote import Remote

    Array = np.ndarray[Any, np.dtype[Any]]

SPLITTING = "normbench splits 1"  # part of every digest: another rule is another data set
VALIDATION = 5000  # images; a tenth where a set has fewer training images than ENOUGH
ENOUGH = 20_000


@dataclass(frozen=True, eq=False)
class Split:
    """A part of a data set: `images` uint8 (N, C, H, W) and `labels` int64 (N,).

    The images lie channels-last in memory, so that a gathered batch already is.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        """Return the part on a device; the same tensors where they are there already."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A loaded data set with its class names.

    `mean` and `std` have one number per channel: of all pixels, in 0..1, of the full training set
    before the validation part is cut from it.
    """

    label: str
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def first(self, count: int) -> Dataset:
        """Return the set with the first `count` training images only, which are not copied."""
        train = Split(self.train.images[:count], self.train.labels[:count])
        return replace(self, train=train)


@dataclass(frozen=True)
class DatasetInfo:
    """Facts of a data set that are known before it is loaded.

    `shape`: (C, H, W); `classes`: their number; `sizes`: images in train, val, test; `digest`:
    SHA-256 of the content and the rule that splits it; `here`: the files are on this machine;
    `cut`: the parts taken from the training images because the set has none of its own; `where`
    they are, in words; `fix`: the command that gets them; `lacking`: the classes without an image
    for validation or test, in words.
    """

    label: str
    shape: tuple[int, int, int]
    classes: int
    sizes: tuple[int, int, int]
    digest: str
    here: bool
    cut: tuple[str, ...] = ("val",)
    where: str = ""
    fix: str = ""
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifiedFile:
    """A file that was read and is as it must be: its name, size in bytes, and SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Data(Options):
    """The options of a data set: what is known of it, and how it is loaded.

    Args: root: folder of downloaded sets and decoded copies; null is $NORMBENCH_DATA, else data/.
        train_size: number of training images, a fixed subset with equally many of each class as
        far as they go, part of any larger one; null takes all. resample: each seed draws anew.
    """

    error: ClassVar[type[DataError]] = DataError
    execution: ClassVar[tuple[str, ...]] = ("root", "path")  # options that change no number

    root: str | None = None
    train_size: int | None = option(None, low=1)
    resample: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.execution:
            if value := getattr(self, name, None):
                _check_path(self, name, value)
                object.__setattr__(self, name, os.path.expanduser(value))

    def about(self) -> DatasetInfo:
        """Tell what is known of the set without loading it; imports no torch.

        Raises: FileRefused if files are missing without which it is not known; DataError if
            train_size is too large.
        """
        raise NotImplementedError

    def load(self) -> Dataset:
        """Read the set into tensors on the CPU; every file is checked by its digest.

        Raises: FileRefused if files are missing or damaged; DataError if train_size is too large.
        """
        raise NotImplementedError

    def require(self) -> None:
        """Look whether the files are here, by name and size.

        Raises: FileRefused if not.
        """

    def downloads(self) -> tuple[Remote, ...]:
        """List the files that can be downloaded; none where the set has no such files."""
        return ()

    def verify(self) -> Iterator[VerifiedFile]:
        """Read all files of the set and of its decoded copy; yield each that is as it must be.

        Raises: FileRefused naming the first that is not.
        """
        self.load()
        yield from ()

    def folder(self) -> Path:
        """The folder of downloaded sets and decoded copies."""
        return Path(self.root or os.environ.get("NORMBENCH_DATA") or "data").expanduser()

    def taken(self, available: int, classes: int = 1) -> int:
        """Return how many of `available` training images, of so many classes, are used.

        Raises: DataError if train_size is larger, or a class would be left without an image.
        """
        if self.train_size is None:
            return available
        if self.train_size < classes:
            why = f"each of the {classes} classes needs a training image"
            raise self.error("train_size", self.train_size, why, classes)
        if self.train_size > available:
            why = f"there are {available:,} training images beside those for validation"
            raise self.error("train_size", self.train_size, why, available)
        return self.train_size


def validation_size(training: int) -> int:
    """Return how many of `training` images are for validation: 5,000, or a tenth of a small set."""
    return VALIDATION if training >= ENOUGH else max(1, training // 10)


def spread(labels: Array) -> Array:
    """Return the indices of `labels` (N,) in a fixed random order whose prefixes are stratified.

    In the first n of N, each class has its share n/N of its images, to within one. The order
    depends on nothing but the labels: not on a seed, a library's generator or its version.
    """
    import numpy as np

    order = np.argsort(mixed(np.arange(len(labels))))
    mine = labels[order]
    share = (_appearance(mine) + 0.5) / np.bincount(mine)[mine]
    return order[np.lexsort((mine, share))]


def balanced(labels: Array, chosen: Array) -> Array:
    """Order the indices `chosen` so that prefixes have equally many of each class, if it has them.

    Within a class the order is that of `chosen`.
    """
    import numpy as np

    mine = labels[chosen]
    return chosen[np.lexsort((mine, _appearance(mine)))]


def split(labels: Array, *sizes: int) -> list[Array]:
    """Cut disjoint stratified parts of `sizes` from a training set, and give the rest at the end.

    Returns: indices into `labels`. The parts are in the order of `spread`; the rest, the images
    to train on, in that of `balanced`, so that its first n are the subset `train_size=n`.
    """
    order = spread(labels)
    parts, start = [], 0
    for size in sizes:
        parts.append(order[start : start + size])
        start += size
    return [*parts, balanced(labels, order[start:])]


def mixed(counter: Array) -> Array:
    """Hash 64-bit counters to 64-bit words: the finalizer of splitmix64, a bijection.

    Source: Steele, Lea & Flood 2014, Fast splittable pseudorandom number generators, figure 13.
    """
    import numpy as np

    word = (counter.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


class PixelMoments:
    """Mean and standard deviation of pixels per channel, from exact integer sums over blocks."""

    def __init__(self, channels: int) -> None:
        self.count = 0  # pixels per channel
        self.sums = [0] * channels
        self.squares = [0] * channels

    def add(self, images: Array) -> None:
        """Add a block of images, uint8 (N, H, W, C)."""
        import numpy as np

        self.count += images.size // len(self.sums)
        square = np.square(images, dtype=np.uint16)
        for channel in range(len(self.sums)):
            self.sums[channel] += int(images[..., channel].sum(dtype=np.uint64))
            self.squares[channel] += int(square[..., channel].sum(dtype=np.uint64))

    def mean(self) -> tuple[float, ...]:
        """The mean per channel, of pixels in 0..1."""
        return tuple(total / (255 * self.count) for total in self.sums)

    def std(self) -> tuple[float, ...]:
        """The standard deviation per channel, biased, of pixels in 0..1; 1 where it would be 0."""
        variances = [
            (self.count * square - total * total) / (255 * self.count) ** 2
            for total, square in zip(self.sums, self.squares, strict=True)
        ]
        return tuple(variance**0.5 or 1.0 for variance in variances)


def cut(images: Array, labels: Array, sizes: tuple[int, int, int]) -> tuple[Split, Split, Split]:
    """Cut images, uint8 (N, H, W, C), and labels (N,) into consecutive parts of `sizes`.

    The images are not copied: an array that is mapped from a file stays so.
    """
    import numpy as np
    import torch  # a command that only lists data sets does not load it

    pixels = torch.split(torch.from_numpy(images).permute(0, 3, 1, 2), list(sizes))
    classes = torch.split(torch.from_numpy(labels.astype(np.int64)), list(sizes))
    train, val, test = map(Split, pixels, classes)
    return train, val, test


def _appearance(labels: Array) -> Array:
    """Count for each of `labels` (N,) how many of its class stand before it."""
    import numpy as np

    by_class = np.argsort(labels, kind="stable")
    count = np.bincount(labels)
    before = np.empty(len(labels), np.int64)
    before[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(count) - count, count)
    return before


def _check_path(data: Data, name: str, value: str) -> None:
    if "\0" in value:
        raise data.error(name, value, "is not a path", "null" if name == "root" else "DIR")
