"""MNIST, complete, in the package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from normbench.data._base import (
    SPLITTING,
    Data,
    Dataset,
    DatasetInfo,
    VerifiedFile,
    cut,
    split,
    validation_size,
)
from normbench.data._idx import Packed, read
from normbench.data._known import Store

FILES = Path(__file__).resolve().parent / "files"
REPAIR = "pip install --force-reinstall normbench"


TRAIN_IMAGES = Packed(
    "train-images-idx3-ubyte.gz",
    9630610,
    "71524e2cd1ad2968737f7f2f2ff69cbfc32df8ccddff51593f7cb2d4e0eb5b64",
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    (60000, 28, 28),
)
TRAIN_LABELS = Packed(
    "train-labels-idx1-ubyte.gz",
    28878,
    "fe03b8bd7915f70bf5aa08be480aa413fbd85afcaa58b35d230d335f284fd88e",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    (60000,),
)
TEST_IMAGES = Packed(
    "t10k-images-idx3-ubyte.gz",
    1602050,
    "5634745efa576a17e7d4cf5cd9d09123c75e6538e5114267c2d156edaf519341",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    (10000, 28, 28),
)
TEST_LABELS = Packed(
    "t10k-labels-idx1-ubyte.gz",
    4517,
    "ae18e77e031ccde52407f794d123116439864147d33ac992975f85dd4dc42af6",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    (10000,),
)
ALL = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)


@dataclass(frozen=True)
class MNIST(Data):
    """MNIST: 70,000 handwritten digits, 28x28, grey, in 10 classes; part of the package.

    Its 60,000 training images are cut into 55,000 to train on and 5,000 for validation.

    Source: LeCun, Cortes & Burges 1998, The MNIST database of handwritten digits.
    """

    images: ClassVar[int] = 70_000
    shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    classes: ClassVar[int] = 10
    split: ClassVar[tuple[int, int, int]] = (55_000, 5_000, 10_000)
    mean: ClassVar[tuple[float]] = (0.13066047627384286,)
    std: ClassVar[tuple[float]] = (0.3081078038564627,)

    def about(self) -> DatasetInfo:
        """Tell what is known from the constants here; looks only whether the files are there."""
        for file in ALL:
            _store().check(file)
        train, val, test = self.split
        sizes = (self.taken(train, self.classes), val, test)
        text = "\n".join([SPLITTING, *(file.unpacked_sha256 for file in ALL)])
        digest = hashlib.sha256(text.encode()).hexdigest()
        where = "part of the package"
        return DatasetInfo("mnist", self.shape, self.classes, sizes, digest, here=True, where=where)

    def load(self) -> Dataset:
        """Unpack the files, checking their digests before and after."""
        import numpy as np

        store = _store()
        images, labels = read(store, TRAIN_IMAGES)[..., None], read(store, TRAIN_LABELS)
        val, train = split(labels, validation_size(len(labels)))
        order = np.concatenate([train, val])
        images = np.concatenate([images[order], read(store, TEST_IMAGES)[..., None]])
        labels = np.concatenate([labels[order], read(store, TEST_LABELS)])
        parts = cut(images, labels, self.split)
        whole = Dataset("mnist", *parts, tuple("0123456789"), self.mean, self.std)
        return whole.first(self.taken(len(train)))

    def verify(self) -> Iterator[VerifiedFile]:
        """Unpack each file."""
        for file in ALL:
            read(_store(), file)
            yield VerifiedFile(file.name, file.size, file.sha256)


def _store() -> Store:
    return Store(FILES, REPAIR)
