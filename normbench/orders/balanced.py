"""As many images of each class in each batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from normbench.orders._dealt import EVEN, Deal, Dealt, Pool, Shares, hands


@dataclass(frozen=True)
class Balanced(Dealt):
    """As many images of each class in a batch, to within one.

    Where a class has fewer images than others, images of those, at random, take a place of it here
    and there.
    """

    def deal(self, shape: tuple[int, int], pool: Pool, random: torch.Generator) -> Deal:
        """Deal all classes to each batch."""
        steps, batch = shape
        shares = Shares(steps, pool.classes, EVEN, random)
        places = torch.randperm(steps * batch, generator=random)  # whoever comes last may miss
        wishes = hands(steps, batch, pool.classes, random).flatten()[places]
        return Deal(places, wishes, shares)
