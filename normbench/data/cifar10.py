"""CIFAR-10, downloaded on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from normbench.data._base import Data
from normbench.data._cifar import read
from normbench.data._known import Known
from normbench.data._published import Published

if TYPE_CHECKING:
    from normbench.data._known import Store
    from normbench.data._published import Labelled

FOLDER = "cifar-10-batches-bin"
BATCHES = 5  # members with training images


@dataclass(frozen=True)
class CIFAR10(Published, Data):
    """CIFAR-10: 60,000 photographs, 32x32, in colour, in 10 classes; downloaded on request.

    Its 50,000 training images are cut into 45,000 to train on and 5,000 for validation. The binary
    version is read, for the one that torchvision reads is pickled.

    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.
    """

    label: ClassVar[str] = "cifar10"
    address: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/"
    place: ClassVar[str] = "cifar10"
    files: ClassVar[tuple[Known, ...]] = (
        Known(
            "cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    )
    images: ClassVar[int] = 60_000
    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    classes: ClassVar[int] = 10
    split: ClassVar[tuple[int, int, int]] = (45_000, 5_000, 10_000)
    names: ClassVar[tuple[str, ...]] = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )

    def read(self, store: Store) -> tuple[Labelled, Labelled]:
        """Read the five training batches and the test batch."""
        train, val, test = self.split
        batches = [f"{FOLDER}/data_batch_{number}.bin" for number in range(1, BATCHES + 1)]
        counts = dict.fromkeys(batches, (train + val) // BATCHES)
        return read(store, self.files[0], counts, {f"{FOLDER}/test_batch.bin": test}, labels=1)
