"""Class shares of each batch from a Dirichlet distribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from normbench.orders._dealt import Deal, Dealt, Pool, Shares
from normbench.parts.options import option


@dataclass(frozen=True)
class Dirichlet(Dealt):
    """Class shares of each batch drawn from a Dirichlet distribution, p ~ Dirichlet(alpha).

    The class of each image is drawn from the shares of its batch, and the image from those of its
    class that are left. Where none is left, the class is drawn again from the shares of the others.

    Args: alpha: the concentration, small for few classes in a batch.

    Source: Hsu, Qi & Brown 2019, arXiv 1909.06335 (there the images of a client).
    """

    alpha: float = option(0.3, above=0, high=1e6)

    def deal(self, shape: tuple[int, int], pool: Pool, random: torch.Generator) -> Deal:
        """Draw the class of each image from the shares of its batch."""
        steps, batch = shape
        places = torch.arange(steps * batch)
        shares = Shares(steps, pool.classes, self.alpha, random)
        return Deal(places, shares.draw(places // batch, pool.left), shares)
