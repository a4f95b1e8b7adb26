"""Gradients are shortened to `clip`, all parameters together."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from engine.test_train import config, kinds
from torch import nn

from normbench.norms import create
from normbench.optimizers.sgd import SGD
from normbench.runs.job import Job


def flat(scale: float) -> tuple[nn.Module, nn.Module, object]:
    """A model with flat gradients of about this size, and a copy with gradients of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3)).double()
    other = copy.deepcopy(model)
    stepper = SGD().bind(model)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        theirs.grad = torch.randn_like(theirs) * scale
        ours.grad.copy_(theirs.grad)  # type: ignore[union-attr]
    return model, other, stepper


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 1e3])
def test_clipping_is_that_of_torch(scale: float) -> None:
    model, other, stepper = flat(scale)
    stepper.clip(stepper.grad.dot(stepper.grad), 0.7)  # type: ignore[attr-defined]
    nn.utils.clip_grad_norm_(other.parameters(), 0.7)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=0)


def test_clipping_does_not_wait_for_the_device() -> None:
    stepper = SGD().bind(nn.Linear(3, 2, device="meta"))
    stepper.clip(stepper.grad.dot(stepper.grad), 1.0)


def trained(*words: str) -> Job:
    job = Job(config("norm=gn", "steps=12", "log_every=1", *words))
    list(job.rows())
    return job


def test_a_limit_that_is_never_reached_changes_no_bit() -> None:
    assert trained().state_sha256() == trained("clip=1e6").state_sha256()


def test_steps_of_plain_sgd_are_no_longer_than_lr_times_clip() -> None:
    words = ("optimizer.momentum=0", "optimizer.weight_decay=0", "schedule=constant", "warmup=0")
    job = Job(config("norm=gn", "steps=8", "log_every=1", "clip=0.01", "optimizer.lr=0.1", *words))
    before = None
    for row in job.rows():
        if row.kind == "train":
            now = job.optimizer.params.clone()
            if before is not None:
                assert float((now - before).norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)
            before = now


def test_the_norm_that_is_told_is_that_before_clipping() -> None:
    job = Job(config("norm=gn", "steps=1", "log_every=1", "clip=0.001"))
    twin = copy.deepcopy(job.model).train()
    found = kinds(list(job.rows()), "train")[0]
    x, y = job.train.gather(job.train.order(0, 0, 64)[0])
    F.cross_entropy(twin(x), y).backward()  # type: ignore[no-untyped-call]
    squares = sum(float(each.grad.square().sum()) for each in twin.parameters())  # type: ignore[union-attr]
    assert found.values["optim/grad_norm"] == pytest.approx(squares**0.5, rel=1e-5)


def test_the_norm_acts_on_the_gradients_first() -> None:
    """agc shortens rows: what is told, and what is clipped, is what it left."""
    job = Job(config("norm=agc", "norm.factor=0.001", "steps=1", "log_every=1", "clip=0.001"))
    twin = copy.deepcopy(job.model).train()
    found = kinds(list(job.rows()), "train")[0]
    x, y = job.train.gather(job.train.order(0, 0, 64)[0])
    F.cross_entropy(twin(x), y).backward()  # type: ignore[no-untyped-call]
    create("agc", factor=0.001).after_backward(twin)
    squares = sum(float(each.grad.square().sum()) for each in twin.parameters())  # type: ignore[union-attr]
    assert found.values["optim/grad_norm"] == pytest.approx(squares**0.5, rel=1e-5)


def test_a_gradient_that_is_not_finite_still_ends_the_run() -> None:
    words = ("optimizer.lr=1e20", "norm=none", "steps=60", "warmup=0", "clip=1.0")
    end = list(Job(config(*words)).rows())[-1].values
    assert end["state"] == "diverged"
