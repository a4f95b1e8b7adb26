"""Which training images make the batches of an epoch, and in which order the batches come."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from normbench.runtime import rng

ONE_CLASS, EVEN = 1e-30, math.inf  # concentrations at which shares are of one class, and equal


@dataclass(frozen=True)
class Order:
    """How the images of an epoch are put into batches; each is used at most once.

    iid: a random permutation, cut into batches.
    sorted: all images of the first class, then all of the second, up to the last, in each epoch.
    dirichlet: the class of each image is drawn from the shares of its batch, p ~ Dirichlet(alpha),
    and the image from those of its class that are left. Where none is left, the class is drawn
    again from the shares of the others.
    classes: each batch has `classes` different ones at random, and as many images of each, to
    within one; each class is in as many batches as any other, to within one. Where a class has run
    out, one that is left takes its place in the batch.
    balanced: as many images of each class in a batch, to within one. Where a class has fewer images
    than others, images of those, at random, take a place of it here and there.

    The last three come with their batches shuffled, so that those for which images ran out are
    anywhere in the epoch. Within a batch images lie in random order: its micro-batches are no
    more sorted than itself.

    Args: alpha, classes: see above. reshuffle: false gives the batches of the first epoch in each
    epoch, in a new random order; sorted ones stay sorted by class.

    Source: Hsu, Qi & Brown 2019, arXiv 1909.06335, for dirichlet (there the images of a client);
    Ioffe 2017, arXiv 1702.03275, section 4.3, for classes (there two images of each).
    """

    kind: str = "iid"
    alpha: float = 0.3
    classes: int = 2
    reshuffle: bool = True

    def batches(self, labels: Tensor, batch: int, seed: int, epoch: int) -> Tensor:
        """Return the indices (steps, batch) of an epoch; the incomplete last batch is dropped.

        Args: labels: of all images, (N,); of `iid` only their number makes a difference.
        """
        random = rng.generator(seed, "order", epoch if self.reshuffle else 0)
        shape = len(labels) // batch, batch
        if self.kind == "iid":
            order = torch.randperm(len(labels), generator=random)[: math.prod(shape)]
            order = order.reshape(shape)
        else:
            labels = labels.cpu()
            order = (_sorted if self.kind == "sorted" else self._dealt)(labels, shape, random)
        if self.reshuffle or epoch == 0:
            return order
        turns = torch.randperm(len(order), generator=rng.generator(seed, "batches", epoch))
        if self.kind == "sorted":
            turns = turns[_by_class(labels[order[turns]])]
        return order[turns]

    def _dealt(self, labels: Tensor, shape: tuple[int, int], random: torch.Generator) -> Tensor:
        (steps, batch), pool = shape, _Pool(labels, random)
        places = torch.arange(steps * batch)
        if self.kind == "dirichlet":
            shares = _Shares(steps, pool.classes, self.alpha, random)
            wishes = shares.draw(places // batch, pool.left)
        elif self.kind == "classes":
            shares = _Shares(steps, pool.classes, ONE_CLASS, random)
            hands = _hands(steps, min(self.classes, pool.classes), pool.classes, random)
            wishes = hands[places // batch, places % batch % hands.shape[1]]
        else:
            shares = _Shares(steps, pool.classes, EVEN, random)
            places = torch.randperm(len(places), generator=random)  # whoever comes last may miss
            wishes = _hands(steps, batch, pool.classes, random).flatten()[places]
        order = torch.empty_like(places)
        while len(places):  # each time round at least one class runs out
            served, images = pool.take(wishes)
            order[places[served]] = images
            places = places[~served]
            wishes = shares.draw(places // batch, pool.left)
        return _mixed(order.reshape(shape), random)[torch.randperm(steps, generator=random)]


class _Pool:
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


class _Shares:
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


def _hands(steps: int, size: int, classes: int, random: torch.Generator) -> Tensor:
    """Deal `size` classes to each batch from a shuffled deck of all of them: (steps, size).

    The deck goes round, and is shuffled anew whenever the end of a batch is its end as well: so
    each class is as often in a batch as any other, to within one, and also in all batches.
    """
    place = torch.arange(steps * size)
    decks = place // math.lcm(size, classes)
    cards = torch.rand(-(-len(place) // math.lcm(size, classes)), classes, generator=random)
    hands: Tensor = cards.argsort(1)[decks, place % classes].reshape(steps, size)
    return hands


def _sorted(labels: Tensor, shape: tuple[int, int], random: torch.Generator) -> Tensor:
    kept = torch.randperm(len(labels), generator=random)[: math.prod(shape)]
    return _mixed(kept[labels[kept].argsort(stable=True)].reshape(shape), random)


def _by_class(labels: Tensor) -> Tensor:
    """Sort batches by the first and the last of their classes, `labels` (steps, batch)."""
    first, last = labels.amin(1), labels.amax(1)
    by_last = last.argsort(stable=True)
    return by_last[first[by_last].argsort(stable=True)]


def _mixed(order: Tensor, random: torch.Generator) -> Tensor:
    """Put the images of each batch (steps, batch) in random order."""
    return order.gather(1, torch.rand(order.shape, generator=random).argsort(1))
