"""CIFAR-10, downloaded on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from normbench.data._cifar import CIFAR
from normbench.data._known import Known

BATCHES = 5  # members with training images


@dataclass(frozen=True)
class CIFAR10(CIFAR):
    """CIFAR-10: 60,000 photographs, 32x32, in colour, in 10 classes; downloaded on request.

    Its 50,000 training images are cut into 45,000 to train on and 5,000 for validation. The binary
    version is read, for the one that torchvision reads is pickled.

    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.
    """

    label: ClassVar[str] = "cifar10"
    place: ClassVar[str] = "cifar10"
    files: ClassVar[tuple[Known, ...]] = (
        Known(
            "cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    )
    classes: ClassVar[int] = 10
    names: ClassVar[tuple[str, ...]] = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    train: ClassVar[tuple[str, ...]] = tuple(
        f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, BATCHES + 1)
    )
    test: ClassVar[str] = "cifar-10-batches-bin/test_batch.bin"
    label_bytes: ClassVar[int] = 1
