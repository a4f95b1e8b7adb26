"""The contract of orders: batches as their definition says, each image at most once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contracts.cases import oracle_of, own

from normbench.errors import OrderError
from normbench.parts import registry

CASES = [(name, options) for name in own("order") for options in oracle_of("order", name).OPTIONS]
each_case = pytest.mark.parametrize(("name", "options"), CASES)
LABELS = torch.arange(10 * 400) % 10


def made(name, options):
    return registry.find("order", name)(**options)


def drawn(name, options, batch, seed=0, labels=LABELS):
    shape = len(labels) // batch, batch
    return made(name, options).draw(labels, shape, torch.Generator().manual_seed(seed))


@each_case
def test_batches_are_as_the_oracle_says(name, options):
    chosen = drawn(name, options, 20)  # which divides a class: none runs out before the others
    counts = np.stack([np.bincount(row, minlength=10) for row in LABELS[chosen]])
    oracle_of("order", name).check(counts, 20, **options)


@each_case
@pytest.mark.parametrize("labels", [LABELS, torch.tensor([0, 5, 5, 9, 9, 9, 9, 2])])
def test_each_image_is_used_at_most_once_and_no_batch_is_missing(name, options, labels):
    for batch in (1, 3, len(labels)):
        chosen = drawn(name, options, batch, labels=labels)
        assert chosen.shape == (len(labels) // batch, batch)
        assert chosen.unique().numel() == chosen.numel()


@each_case
def test_the_same_generator_gives_the_same_batches(name, options):
    one, other, third = (drawn(name, options, 32, seed) for seed in (4, 4, 5))
    assert torch.equal(one, other) and not torch.equal(one, third)


@each_case
def test_batches_come_again_each_once(name, options):
    order, chosen = made(name, options), drawn(name, options, 32)
    turns = order.turns(LABELS[chosen], torch.Generator().manual_seed(1))
    assert turns.sort().values.equal(torch.arange(len(chosen)))


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [(name, *case) for name in own("order") for case in oracle_of("order", name).REFUSED],
)
def test_what_cannot_be_drawn_is_refused(name, options, text):
    sizes = options.get("sizes", [400] * 10)
    order = made(name, {key: value for key, value in options.items() if key != "sizes"})
    if text is None:
        order.check(9, sizes, "toys")
        return
    with pytest.raises(OrderError) as error:
        order.check(9, sizes, "toys")
    assert text in str(error.value)
