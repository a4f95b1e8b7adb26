"""Draws the validation part and the training subset of a set anew, by a seed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from normbench.data._base import Split, mixed, split

if TYPE_CHECKING:
    from normbench.data._base import Dataset


def resampled(data: Dataset, seed: int, size: int, cut: bool) -> Dataset:
    """Draw the images to train on, and those for validation, from both together.

    Both are stratified as the fixed ones are; of one seed, a smaller training subset is part of a
    larger one. The test images stay.

    Args: data: with all its training images; size: how many are trained on; cut: whether the
    validation part was taken from the training images, else it stays too.
    """
    import numpy as np
    import torch  # a command that only lists data sets does not load it

    labels, images = data.train.labels, data.train.images
    if cut:
        labels = torch.cat([labels, data.val.labels])
        images = torch.cat([images, data.val.images])
    start = mixed(np.array([seed & (2**63 - 1)], np.uint64))
    shuffled = np.argsort(mixed(np.arange(len(labels), dtype=np.uint64) + start))
    parts = split(labels.numpy()[shuffled], *[len(data.val)] * cut)
    chosen = [torch.from_numpy(shuffled[part]) for part in (*parts[:-1], parts[-1][:size])]
    drawn = [
        Split(
            images[part].contiguous(memory_format=torch.channels_last),
            labels[part],
        )
        for part in chosen
    ]
    return replace(data, train=drawn[-1], val=drawn[0] if cut else data.val)
