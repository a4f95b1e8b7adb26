"""CIFAR in its binary version: records of labels and 3x32x32 pixels, colour by colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from normbench.data._archive import records
from normbench.data._published import Published

if TYPE_CHECKING:
    from normbench.data._known import Store
    from normbench.data._published import Labelled

SIDE = 32


@dataclass(frozen=True)
class CIFAR(Published):
    """The base of CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test images in an archive.

    The binary version is read, for the one that torchvision reads is pickled.
    """

    address: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/"
    images: ClassVar[int] = 60_000
    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    split: ClassVar[tuple[int, int, int]] = (45_000, 5_000, 10_000)
    train: ClassVar[tuple[str, ...]]  # members of the archive, with equally many images
    test: ClassVar[str]
    label_bytes: ClassVar[int]  # bytes before an image, of which the last counts

    def read(self, store: Store) -> tuple[Labelled, Labelled]:
        """Read the images (N, 32, 32, 3) and labels (N,) of the training and the test members."""
        cut = sum(self.split[:2])
        counts = dict.fromkeys(self.train, cut // len(self.train)) | {self.test: self.split[2]}
        rows = records(store, self.files[0], counts, self.label_bytes + 3 * SIDE * SIDE)
        images = rows[:, self.label_bytes :].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        classes = rows[:, self.label_bytes - 1]
        return (images[:cut], classes[:cut]), (images[cut:], classes[cut:])
