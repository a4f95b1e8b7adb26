"""Which training images make the batches of an epoch, and in which order the batches come."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from normbench.orders._base import Order
from normbench.orders.iid import Iid
from normbench.runtime import rng


@dataclass(frozen=True)
class Sampler:
    """The batches of each epoch in an order.

    Args: reshuffle: false gives the batches of the first epoch in each epoch, in a new random
    order, as far as the order leaves it to chance.
    """

    order: Order = Iid()
    reshuffle: bool = True

    def batches(self, labels: Tensor, batch: int, seed: int, epoch: int) -> Tensor:
        """Return the indices (steps, batch) of an epoch; the incomplete last batch is dropped.

        Args: labels: of all images, (N,).
        """
        labels = labels.cpu()
        random = rng.generator(seed, "order", epoch if self.reshuffle else 0)
        chosen = self.order.draw(labels, (len(labels) // batch, batch), random)
        if self.reshuffle or epoch == 0:
            return chosen
        turns = self.order.turns(labels[chosen], rng.generator(seed, "batches", epoch))
        return chosen[turns]
