"""CIFAR in its binary version: records of labels and 3x32x32 pixels, colour by colour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from normbench.data._archive import records

if TYPE_CHECKING:
    from normbench.data._known import Known, Store
    from normbench.data._published import Labelled

SIDE = 32


def read(
    store: Store, archive: Known, train: Mapping[str, int], test: Mapping[str, int], labels: int
) -> tuple[Labelled, Labelled]:
    """Return the images (N, 32, 32, 3) and labels (N,) of the training and the test members.

    Args: train, test: number of images by name of the member; labels: bytes of labels before an
        image, of which the last counts.
    Raises: FileRefused if the archive is missing, damaged or another one.
    """
    rows = records(store, archive, {**train, **test}, labels + 3 * SIDE * SIDE)
    images = rows[:, labels:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    cut = sum(train.values())
    classes = rows[:, labels - 1]
    return (images[:cut], classes[:cut]), (images[cut:], classes[cut:])
