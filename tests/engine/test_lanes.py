"""Lanes: runs that train in one program have the bits of runs that train alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest
import torch
from contracts.cases import own
from engine.test_capture import GROUPS, LACKING, NORMS, config
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from normbench.engine.lanes import Lanes, side_by_side
from normbench.engine.loader import Batch
from normbench.runs.job import Job

LANES, STEPS = 3, 6  # two are recorded of each lane, the fourth is tried, the rest are replayed
PARTS = [
    ["model=mlp", "norm=brn"],
    ["model=mlp", "norm=bn", "dropout=0.3", "augment=crop+flip+cutout", "optimizer=adam"],
    ["model=mlp", "norm=gn", "accumulate=4", "clip=0.5"],
    ["model=cnn", "norm=bn", "batch=2"],
    *(
        pytest.param(["model=mlp", f"norm={norm}"], marks=pytest.mark.slow)
        for norm in ("ln", "frn")
    ),
]


def jobs(words: list[str]) -> list[Job]:
    """Jobs that differ in seed and learning rate, ready to train."""
    made = [Job(config(*words, "capture=on", f"seed={lane}")) for lane in range(LANES)]
    for job in made:
        job.model.train()
        job.evaluator.begin(0, 0)
    return made


def batches(job: Job) -> Iterator[Batch]:
    for epoch in range(STEPS):
        yield from job.train.epoch(epoch)


def held(job: Job) -> list[Tensor]:
    """What a step changes: parameters, gradient, optimizer, buffers and sums."""
    optimizer = job.optimizer
    kept = [optimizer.params, optimizer.grad, *optimizer.state.values(), *job.model.buffers()]
    return [*kept, *job.train_step.sums.state().values()]


def same(one: Job, other: Job) -> bool:
    pairs = zip(held(one), held(other), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)


def step(lanes: Lanes, feeds: Sequence[Iterator[Batch]], alone: Mapping[int, Job]) -> None:
    """Make a step of each of some runs, with lanes and without; two have one learning rate."""
    due = [(number, next(feeds[number]), 0.01 * (number // 2 + 1)) for number in alone]
    assert not lanes(due)
    for number, batch, lr in due:
        alone[number].train_step(batch, lr)


def check(words: list[str]) -> Lanes:
    """Hold lanes after each step against the same runs alone."""
    together, alone = jobs(words), jobs(words)
    lanes, feeds = Lanes([job.train_step for job in together]), [*map(batches, alone)]
    for _ in range(STEPS):
        step(lanes, feeds, dict(enumerate(alone)))
        assert all(map(same, together, alone))
    return lanes


@pytest.mark.parametrize("words", PARTS, ids=" ".join)
def test_lanes_have_the_bits_of_runs_alone(words: list[str]) -> None:
    lanes = check(words)
    assert not lanes.obstacle
    assert lanes.gradient.made


def test_a_run_without_numbers_and_one_that_has_ended_leave_the_others_as_they_are() -> None:
    together, alone = jobs(["model=mlp", "norm=bn"]), jobs(["model=mlp", "norm=bn"])
    lanes, feeds = Lanes([job.train_step for job in together]), [*map(batches, alone)]
    going = dict(enumerate(alone))
    for _ in range(4):
        step(lanes, feeds, going)
    for job in (together[1], alone[1]):
        job.optimizer.params.fill_(torch.nan)
    step(lanes, feeds, going)
    assert lanes.gradient.made and all(map(same, together, alone))
    lanes.without(1)
    del going[1]
    for _ in range(2):
        step(lanes, feeds, going)
    assert all(same(together[number], job) for number, job in going.items())


def test_a_rule_that_is_right_by_chance_is_refused() -> None:
    """Sums of one number that is not 0 are equal in any order, those of others are not."""
    words = ["model=mlp", "norm=none", "activation=relu", "dropout=0.3"]
    together, alone = jobs(words), jobs(words)
    lanes, feeds = Lanes([job.train_step for job in together]), [*map(batches, alone)]
    for _ in range(20):
        step(lanes, feeds, dict(enumerate(alone)))
    assert lanes.gradient.made and all(map(same, together, alone))


@pytest.mark.parametrize("optimizer", own("optimizer"))
def test_nothing_looks_at_memory_that_a_run_has_left(optimizer: str) -> None:
    job = Job(config("model=mlp", f"optimizer={optimizer}"))
    left = job.optimizer.params, job.optimizer.message, *job.model.buffers()
    memory = [StorageWeakRef(tensor.untyped_storage()) for tensor in left]  # type: ignore[no-untyped-call]
    side_by_side([job.train_step, Job(job.config).train_step])
    assert all(each.expired() for each in memory)  # type: ignore[no-untyped-call]


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_lanes_of_any_norm_have_the_bits_of_runs_alone(model: str, norm: str) -> None:
    if (model, norm) in LACKING:
        pytest.skip("takes statistics over positions")
    groups = GROUPS.get((model, norm))
    check([f"model={model}", f"norm={norm}", *([f"norm.groups={groups}"] if groups else [])])
