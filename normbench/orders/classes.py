"""A fixed number of classes in each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from normbench.errors import counted
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
        known, most = len(sizes), min(len(sizes), batch)
        if self.classes > known:
            raise self.error("classes", self.classes, f"{label} has {known} classes", most)
        if self.classes > batch:
            raise self.error("classes", self.classes, f"batch={batch} has no room for them", batch)
        # The images that each of so many classes has, and those that it needs for a batch.
        there = [0, *sorted(sizes, reverse=True)]
        needed = -(-batch // self.classes)
        if needed <= there[self.classes]:
            return
        have = sum(size >= needed for size in sizes)
        why = (
            f"takes {counted(needed, 'image')} of a class for batch={batch}, and {have} of {known} "
            f"classes have so many (the largest has {max(sizes)})"
        )
        works = [k for k in range(1, most + 1) if -(-batch // k) <= there[k]]
        fix = str(min(works, key=lambda k: abs(k - self.classes))) if works else "order=iid"
        if not works and there[self.classes]:
            fix = f"batch={self.classes * there[self.classes]}"
        raise self.error("classes", self.classes, why, fix)

    def deal(self, shape: tuple[int, int], pool: Pool, random: torch.Generator) -> Deal:
        """Deal classes to the batches from a shuffled deck of all of them."""
        steps, batch = shape
        places = torch.arange(steps * batch)
        shares = Shares(steps, pool.classes, ONE_CLASS, random)
        chosen = hands(steps, min(self.classes, pool.classes), pool.classes, random)
        wishes = chosen[places // batch, places % batch % chosen.shape[1]]
        return Deal(places, wishes, shares)
