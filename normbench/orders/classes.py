"""A fixed number of classes in each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from normbench.orders._dealt import ONE_CLASS, Deal, Dealt, Pool, Shares, hands
from normbench.parts.options import option


@dataclass(frozen=True)
class Classes(Dealt):
    """A number of different classes in each batch, drawn at random, with as many images of each.

    Both hold to within one: the images of a class in a batch, and the batches that a class is in.
    Where a class has run out, one that is left takes its place in the batch.

    Args: classes: how many different ones a batch has.

    Source: Ioffe 2017, arXiv 1702.03275, section 4.3 (there two images of each).
    """

    classes: int = option(2, low=1, high=100_000)

    def check(self, batch: int, sizes: Sequence[int], label: str) -> None:
        """Refuse more classes than the data or a batch can have, and too few images of them."""
        known, images = len(sizes), sum(sizes) // len(sizes)
        most, needed = min(known, batch), -(-batch // self.classes)
        if self.classes > known:
            raise self.error("classes", self.classes, f"{label} has {known} classes", most)
        if self.classes > batch:
            raise self.error("classes", self.classes, f"batch={batch} has no room for them", batch)
        if needed > images:
            why = f"takes {needed} images of a class for batch={batch}, there are about {images}"
            works = f"batch={self.classes * images}"
            if not images:
                works = "order=iid"
            elif -(-batch // images) <= most:
                works = str(-(-batch // images))
            raise self.error("classes", self.classes, why, works)

    def deal(self, shape: tuple[int, int], pool: Pool, random: torch.Generator) -> Deal:
        """Deal classes to the batches from a shuffled deck of all of them."""
        steps, batch = shape
        places = torch.arange(steps * batch)
        shares = Shares(steps, pool.classes, ONE_CLASS, random)
        chosen = hands(steps, min(self.classes, pool.classes), pool.classes, random)
        wishes = chosen[places // batch, places % batch % chosen.shape[1]]
        return Deal(places, wishes, shares)
