"""Orders that deal images to batches by class: what is left of each class, and who gets it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from normbench.orders._base import Order, mixed

ONE_CLASS, EVEN = 1e-30, math.inf  # concentrations at which shares are of one class, and equal


class Deal(NamedTuple):
    """Which class each place in the batches asks for, and by which shares it asks again.

    places: numbers (M,) from 0 on, batch by batch, in the order in which they are served; wishes:
    their classes (M,).
    """

    places: Tensor
    wishes: Tensor
    shares: Shares


@dataclass(frozen=True)
class Dealt(Order):
    """The base of orders in which each place of a batch asks for an image of some class.

    Batches come shuffled, so that those for which images ran out are anywhere in the epoch.
    """

    def deal(self, shape: tuple[int, int], pool: Pool, random: torch.Generator) -> Deal:
        """Say what each place of the batches, of `shape` (steps, batch), asks for."""
        raise NotImplementedError

    def draw(self, labels: Tensor, shape: tuple[int, int], random: torch.Generator) -> Tensor:
        """Draw the batches of an epoch."""
        (steps, batch), pool = shape, Pool(labels, random)
        places, wishes, shares = self.deal(shape, pool, random)
        order = torch.empty_like(places)
        while len(places):  # each time round at least one class runs out
            served, images = pool.take(wishes)
            order[places[served]] = images
            places = places[~served]
            wishes = shares.draw(places // batch, pool.left)
        return mixed(order.reshape(shape), random)[torch.randperm(steps, generator=random)]


class Pool:
    """The images of an epoch that are left, by class: `left` (K,) of the classes there are."""

    def __init__(self, labels: Tensor, random: torch.Generator) -> None:
        _, mine, self.left = torch.unique(labels, return_inverse=True, return_counts=True)
        self.classes = len(self.left)
        shuffled = torch.randperm(len(labels), generator=random)
        self.images = shuffled[mine[shuffled].argsort(stable=True)]
        self.next = self.left.cumsum(0) - self.left

    def take(self, wishes: Tensor) -> tuple[Tensor, Tensor]:
        """Serve classes (M,) in turn: which of them, bool (M,), and the images of those."""
        asked = torch.bincount(wishes, minlength=self.classes)
        by_class = wishes.argsort(stable=True)
        rank = torch.empty_like(wishes)  # of a wish among those for its class
        before = (asked.cumsum(0) - asked).repeat_interleave(asked)
        rank[by_class] = torch.arange(len(wishes)) - before
        served = rank < self.left[wishes]
        images = self.images[(self.next[wishes] + rank)[served]]
        taken = asked.minimum(self.left)
        self.next, self.left = self.next + taken, self.left - taken
        return served, images


class Shares:
    """The shares of the classes in each batch, p ~ Dirichlet(alpha), (steps, K).

    With g ~ Gamma(alpha + 1) and u ~ U(0, 1), g u^(1/alpha) ~ Gamma(alpha), and p is such numbers
    over their sum. `scores` are their logarithms times alpha, which no alpha takes to zero. Shares
    over the sum of some of them are Dirichlet(alpha) again.
    """

    def __init__(self, steps: int, classes: int, alpha: float, random: torch.Generator) -> None:
        self.alpha, self.random = alpha, random
        self.scores = torch.zeros(steps, classes, dtype=torch.float64)
        if alpha < EVEN:
            gamma = torch._standard_gamma(self.scores + alpha + 1, generator=random)
            self.scores = torch.rand(gamma.shape, generator=random, dtype=torch.float64).log()
            self.scores += alpha * gamma.log()

    def draw(self, batches: Tensor, left: Tensor) -> Tensor:
        """Draw a class for each of `batches` (M,), of those of which some are left."""
        rows, mine = torch.unique(batches, return_inverse=True)
        scores = self.scores[rows].masked_fill(left == 0, -math.inf)
        best = scores.amax(1, keepdim=True)
        shares = ((scores - best) / self.alpha).masked_fill(left == 0, -math.inf).softmax(1)
        ends = shares.cumsum(1)
        ends = ends / ends[:, -1:] + torch.arange(len(rows)).unsqueeze(1)
        chance = torch.rand(len(batches), generator=self.random, dtype=torch.float64)
        chance = chance * (1 - 1e-9)  # so that no sum is rounded up into the next row
        place = torch.searchsorted(ends.flatten(), mine + chance, right=True)
        found: Tensor = place - mine * self.scores.shape[1]
        return found


def hands(steps: int, size: int, classes: int, random: torch.Generator) -> Tensor:
    """Deal `size` classes to each batch from a shuffled deck of all of them: (steps, size).

    The deck goes round, and is shuffled again whenever the end of a batch is its end as well: so
    each class is as often in a batch as any other, to within one, and also in all batches.
    """
    place = torch.arange(steps * size)
    decks = place // math.lcm(size, classes)
    cards = torch.rand(-(-len(place) // math.lcm(size, classes)), classes, generator=random)
    dealt: Tensor = cards.argsort(1)[decks, place % classes].reshape(steps, size)
    return dealt
