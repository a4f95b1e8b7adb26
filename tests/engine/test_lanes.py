"""Lanes: runs that train in one program have the bits of runs that train alone."""

from __future__ import annotations

from collections.abc import Iterator

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
    *(["model=mlp", f"norm={norm}"] for norm in ("bn", "gn", "ln", "brn", "frn")),
    ["model=mlp", "norm=bn", "dropout=0.3", "augment=crop+flip+cutout", "optimizer=adam"],
    ["model=mlp", "norm=gn", "accumulate=4", "clip=0.5"],
    ["model=cnn", "norm=bn", "batch=2"],
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


def check(words: list[str]) -> Lanes:
    """Hold lanes after each step against the same runs alone."""
    together, alone = jobs(words), jobs(words)
    lanes = Lanes([job.train_step for job in together])
    feeds = [batches(job) for job in alone]
    for _ in range(STEPS):
        due = [(lane, next(feed), 0.01 * (lane + 1)) for lane, feed in enumerate(feeds)]
        lanes(due)
        for lane, batch, lr in due:
            alone[lane].train_step(batch, lr)
        assert all(map(same, together, alone))
    return lanes


@pytest.mark.parametrize("words", PARTS, ids=" ".join)
def test_lanes_have_the_bits_of_runs_alone(words: list[str]) -> None:
    lanes = check(words)
    assert not lanes.obstacle
    assert lanes.gradient.made


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_lanes_of_any_norm_have_the_bits_of_runs_alone(model: str, norm: str) -> None:
    if (model, norm) in LACKING:
        pytest.skip("takes statistics over positions")
    groups = GROUPS.get((model, norm))
    check([f"model={model}", f"norm={norm}", *([f"norm.groups={groups}"] if groups else [])])
