"""Orders of batches: each against its definition, and what a command line may ask of them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from normbench.engine.sampler import Sampler
from normbench.errors import Refused
from normbench.parts import registry
from normbench.runs import check
from normbench.runs.job import Job
from normbench.runtime import rng
from normbench.settings import compose
from normbench.settings.schema import Config, part

SMALL = ("data=synthetic", "data.shape=[1,8,8]", "device=cpu", "model=mlp", "model.width=16")


ORDERS = registry.names("order")


def sampler(name: str = "iid", reshuffle: bool = True, **options: float) -> Sampler:
    return Sampler(part("order", {"name": name, **options}), reshuffle)


def configs(*words: str) -> list[Config | None]:
    cells = compose.Grid(compose.loader()).cells([*SMALL, *words], True)
    return [cell.config for cell in cells]


def config(*words: str) -> Config:
    (found,) = configs(*words)
    assert found
    return found


def equal_classes(classes: int, each: int) -> Tensor:
    """Labels of equally large classes, as a data set has them: in turn."""
    return torch.arange(classes * each) % classes


def counts(labels: Tensor, order: Tensor) -> Tensor:
    """How many images of each class are in each batch, (steps, K)."""
    rows = [torch.bincount(row, minlength=int(labels.max()) + 1) for row in labels[order]]
    return torch.stack(rows)


def compositions(order: Tensor) -> Counter[frozenset[int]]:
    return Counter(frozenset(row) for row in order.tolist())


@st.composite
def cases(draw: Any) -> tuple[Sampler, Tensor, int, int, int]:
    labels = draw(st.lists(st.sampled_from([0, 1, 2, 5, 9]), min_size=1, max_size=60))
    name = draw(st.sampled_from(ORDERS))
    options = {
        "dirichlet": {"alpha": draw(st.sampled_from([5e-324, 0.01, 0.3, 2.0, 1e6]))},
        "classes": {"classes": draw(st.integers(1, 5))},
    }
    order = sampler(name, draw(st.booleans()), **options.get(name, {}))
    batch = draw(st.integers(1, len(labels)))
    return order, torch.tensor(labels), batch, draw(st.integers(0, 3)), draw(st.integers(0, 3))


@settings(max_examples=300, deadline=None)
@given(cases())
def test_each_image_is_used_at_most_once_and_no_batch_is_missing(case: Any) -> None:
    order, labels, batch, seed, epoch = case
    found = order.batches(labels, batch, seed, epoch)
    assert found.shape == (len(labels) // batch, batch)
    assert found.dtype == torch.int64
    assert len(set(found.flatten().tolist())) == found.numel()
    assert set(found.flatten().tolist()) <= set(range(len(labels)))


@settings(max_examples=100, deadline=None)
@given(cases())
def test_an_epoch_is_the_same_each_time_it_is_asked_for(case: Any) -> None:
    order, *rest = case
    assert torch.equal(order.batches(*rest), order.batches(*rest))


@settings(max_examples=100, deadline=None)
@given(cases())
def test_without_reshuffling_the_batches_of_the_first_epoch_come_again(case: Any) -> None:
    order, labels, batch, seed, epoch = case
    fixed = Sampler(order.order, reshuffle=False)
    first, later = (fixed.batches(labels, batch, seed, each) for each in (0, epoch))
    rows = [sorted(map(tuple, each.tolist())) for each in (first, later)]
    assert rows[0] == rows[1]  # also within a batch: micro-batches stay what they are


def test_iid_is_a_permutation_cut_into_batches() -> None:
    labels = equal_classes(10, 7)
    permutation = torch.randperm(70, generator=rng.generator(5, "order", 3))
    found = sampler().batches(labels, 16, seed=5, epoch=3)
    assert torch.equal(found, permutation[:64].reshape(4, 16))


@pytest.mark.parametrize("kind", ORDERS)
def test_another_seed_or_epoch_has_other_batches(kind: str) -> None:
    labels, order = equal_classes(10, 30), sampler(kind)
    found = [order.batches(labels, 20, *each) for each in ((0, 0), (0, 1), (1, 0))]
    assert not any(compositions(a) == compositions(b) for a, b in pairwise(found + found[:1]))


@pytest.mark.parametrize("kind", ORDERS)
def test_without_reshuffling_batches_come_in_another_order_in_each_epoch(kind: str) -> None:
    labels, order = equal_classes(10, 40), sampler(kind, reshuffle=False)
    found = [order.batches(labels, 10, 0, epoch) for epoch in range(3)]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


@pytest.mark.parametrize("kind", ORDERS)
def test_the_first_epoch_is_the_same_with_and_without_reshuffling(kind: str) -> None:
    labels = equal_classes(10, 30)
    found = [sampler(kind, reshuffle=each).batches(labels, 20, 0, 0) for each in (True, False)]
    assert torch.equal(*found)


@pytest.mark.parametrize("reshuffle", [True, False])
@pytest.mark.parametrize("batch", [8, 20, 90])
def test_sorted_batches_never_go_back_to_an_earlier_class(batch: int, reshuffle: bool) -> None:
    labels = equal_classes(10, 33)
    found = labels[sampler("sorted", reshuffle=reshuffle).batches(labels, batch, 0, 2)]
    assert all(int(a.max()) <= int(b.min()) for a, b in pairwise(found))


def test_images_that_sorted_leaves_out_are_of_all_classes() -> None:
    labels = equal_classes(10, 33)
    missing: set[int] = set()
    for epoch in range(20):
        kept = sampler("sorted").batches(labels, 64, 0, epoch).flatten().tolist()
        missing |= {int(labels[i]) for i in set(range(330)) - set(kept)}
    assert missing == set(range(10))


@pytest.mark.parametrize(("batch", "classes"), [(32, 1), (32, 2), (32, 8), (20, 10), (2, 1)])
def test_a_batch_of_classes_has_so_many_and_equally_many_images_of_each(
    batch: int, classes: int
) -> None:
    labels = equal_classes(10, 160)
    found = counts(labels, sampler("classes", classes=classes).batches(labels, batch, 0, 0))
    assert {tuple(sorted(row[row > 0].tolist())) for row in found} == {
        (batch // classes,) * classes
    }


def test_where_classes_do_not_divide_the_batch_they_have_one_image_more_or_less() -> None:
    labels = equal_classes(10, 330)
    found = counts(labels, sampler("classes", classes=3).batches(labels, 32, 0, 0))
    exact = [sorted(row[row > 0].tolist()) == [10, 11, 11] for row in found]
    assert sum(exact) >= 0.95 * len(exact)  # at the end of the epoch some classes run out


def test_each_class_is_in_as_many_batches_of_classes_as_any_other() -> None:
    labels = equal_classes(10, 160)
    found = counts(labels, sampler("classes", classes=4).batches(labels, 32, 0, 0))
    assert set((found > 0).sum(0).tolist()) == {20}


def test_any_two_classes_meet_in_a_batch_of_two_in_an_epoch() -> None:
    labels = equal_classes(5, 1600)
    found = counts(labels, sampler("classes", classes=2).batches(labels, 4, 0, 0))
    pairs = Counter(tuple(row.nonzero().flatten().tolist()) for row in found)
    assert len(pairs) == 10
    assert max(pairs.values()) < 1.5 * min(pairs.values())  # 200 of each are expected


def test_images_of_a_class_meet_others_in_each_epoch() -> None:
    labels, order = equal_classes(2, 40), sampler("classes", classes=1)
    one, other = (compositions(order.batches(labels, 10, 0, epoch)) for epoch in (0, 1))
    assert not one.keys() & other.keys()


def test_a_batch_of_a_class_that_has_run_out_is_all_of_another() -> None:
    labels = torch.tensor([0] * 20 + [1] * 90 + [2] * 90)
    found = counts(labels, sampler("classes", classes=1).batches(labels, 10, 0, 0))
    assert found.amax(1).tolist() == [10] * 20
    assert found.sum(0).tolist() == [20, 90, 90]


@pytest.mark.parametrize("order", [sampler("classes"), sampler("dirichlet", alpha=50.0)])
def test_batches_for_which_images_ran_out_are_not_the_last_ones(order: Sampler) -> None:
    labels = torch.tensor([0] * 40 + [1] * 40 + [2] * 420)
    last = [order.batches(labels, 10, 0, epoch)[-1] for epoch in range(20)]
    assert any(len(set(labels[each].tolist())) > 1 for each in last)


@pytest.mark.parametrize("batch", [2, 7, 10, 32, 64, 100])
def test_balanced_batches_have_equally_many_of_each_class_to_within_one(batch: int) -> None:
    labels = equal_classes(10, 110)
    found = counts(labels, sampler("balanced").batches(labels, batch, 0, 0))
    assert int((found.amax(1) - found.amin(1)).max()) <= 1


def test_balanced_batches_of_unequal_classes_differ_little() -> None:
    labels = torch.repeat_interleave(torch.arange(10), torch.tensor([90, 110] * 5))
    found = counts(labels, sampler("balanced").batches(labels, 50, 0, 0)).double()
    iid = counts(labels, sampler().batches(labels, 50, 0, 0)).double()
    assert int(found.min()) >= 2
    assert float(found.std(1).mean()) < 0.5 * float(iid.std(1).mean())


@pytest.mark.parametrize(("alpha", "tolerance"), [(0.1, 0.05), (0.3, 0.05), (2.0, 0.08)])
def test_dirichlet_batches_vary_as_dirichlet_multinomial_ones(
    alpha: float, tolerance: float
) -> None:
    """Var(n / B) = p (1 - p) (B + K a) / (B (1 + K a)) for p = 1 / K, K classes, B images."""
    classes, batch = 4, 16
    labels = equal_classes(classes, 8000)
    found = counts(labels, sampler("dirichlet", alpha=alpha).batches(labels, batch, 0, 0))
    p, total = 1 / classes, classes * alpha
    expected = p * (1 - p) * (batch + total) / (batch * (1 + total))
    assert float((found / batch).double().var()) == pytest.approx(expected, rel=tolerance)


def test_dirichlet_of_a_tiny_concentration_gives_batches_of_one_class() -> None:
    labels = equal_classes(10, 160)
    found = counts(labels, sampler("dirichlet", alpha=5e-324).batches(labels, 16, 0, 0))
    assert float((found > 0).sum(1).double().mean()) == 1


def test_dirichlet_of_a_large_concentration_varies_as_draws_of_equal_shares() -> None:
    labels = equal_classes(4, 8000)
    found = counts(labels, sampler("dirichlet", alpha=1e6).batches(labels, 16, 0, 0))
    assert float((found / 16).double().var()) == pytest.approx(0.25 * 0.75 / 16, rel=0.05)


def test_micro_batches_are_not_sorted_by_class() -> None:
    labels = equal_classes(10, 160)
    order = sampler("classes", classes=2).batches(labels, 32, 0, 0)
    for halves in (order.reshape(-1, 16), order[:, ::2]):
        assert float((counts(labels, halves) > 0).sum(1).double().mean()) > 1.95


@pytest.mark.parametrize("accumulate", [1, 4])
def test_rows_tell_the_mean_number_of_classes_in_a_batch(accumulate: int) -> None:
    words = ("order=dirichlet", "batch=64", "steps=40", "log_every=9", f"accumulate={accumulate}")
    job = Job(config(*words))
    told = [row for row in job.rows() if row.kind == "train"]
    epochs = [job.train.order(0, epoch, 64) for epoch in range(2)]
    seen = (counts(job.train.labels, torch.cat(epochs)) > 0).sum(1).double()
    steps = [row.step for row in told]
    assert {9, 18, 27, 36, 40} <= set(steps)  # and where a validation follows
    for start, row in zip([0, *steps[:-1]], told, strict=True):
        assert row.values["batch/classes"] == pytest.approx(float(seen[start : row.step].mean()))


def test_a_run_is_trained_in_its_order() -> None:
    job = Job(config("order=classes", "order_classes=3", "reshuffle=false", "batch=30"))
    expected = sampler("classes", classes=3, reshuffle=False).batches(job.train.labels, 30, 0, 4)
    assert torch.equal(job.train.order(0, 4, 30), expected)


def test_runs_of_all_orders_start_from_the_same_weights() -> None:
    jobs = [Job(config("norm=wn", f"order={kind}", "steps=1")) for kind in ("iid", "sorted")]
    for job in jobs:
        next(job.rows())  # the validation at step 0
    one, other = (job.model.state_dict() for job in jobs)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_setting_of_another_order_makes_no_other_run() -> None:
    iid, *dirichlet = configs("order=iid,dirichlet", "order_alpha=0.1,1")[1:]
    assert iid and iid.name == config("order=iid").name
    assert len({each.name for each in dirichlet if each}) == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            "order=dirichlet order_alpha=0",
            "order.alpha=0: must be above 0 and at most 1000000.0\n  try: order.alpha=0.3",
        ),
        (
            "order=classes order_classes=16 batch=32",
            "order.classes=16: synthetic has 10 classes\n  try: order.classes=10",
        ),
        (
            "order=classes order_classes=16 batch=4",
            "order.classes=16: synthetic has 10 classes\n  try: order.classes=4",
        ),
        (
            "order=classes order_classes=5 batch=4",
            "order.classes=5: batch=4 has no room for them\n  try: order.classes=4",
        ),
        (
            "order=classes order_classes=1 batch=64 data.train_size=200",
            "order.classes=1: takes 64 images of a class for batch=64, and 0 of 10 classes have so "
            "many (the largest has 20)\n  try: order.classes=4",
        ),
        (
            "order=classes order_classes=2 batch=100 data.train_size=100",
            "order.classes=2: takes 50 images of a class for batch=100, and 0 of 10 classes have "
            "so many (the largest has 10)\n  try: order.classes=10",
        ),
        (
            "order=classes order_classes=2 batch=98 data.train_size=99",
            "order.classes=2: takes 49 images of a class for batch=98, and 0 of 10 classes have so "
            "many (the largest has 10)\n  try: batch=20",
        ),
        (
            "order=classes order_classes=2 batch=4 data.train_size=10",
            "order.classes=2: takes 2 images of a class for batch=4, and 0 of 10 classes have so "
            "many (the largest has 1)\n  try: order.classes=4",
        ),
        (
            "order_alpha=0.1",
            "order.alpha=0.1: order=iid has no such option\n  try: order=dirichlet order.alpha=0.1",
        ),
        (
            "order=iid,sorted order_classes=3",
            "order.classes=3: order=iid,sorted has no such option\n"
            "  try: order=classes order.classes=3",
        ),
        ("order=shuffled", "order=shuffled: no order has this name"),
    ],
)
def test_what_no_order_can_do_is_refused(words: str, text: str) -> None:
    with pytest.raises(Refused) as error:
        for made in configs(*words.split()):
            assert made
            raise check.check_fit(made, made.shape, made.classes).error or AssertionError
    assert str(error.value).startswith(f"normbench: error: {text}")
