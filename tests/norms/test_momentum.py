"""Momentum of running statistics: the same per optimizer step, with micro-batches or without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contracts.cases import create, draw, own
from engine.test_train import config

from normbench.norms._base import Running
from normbench.parts import registry
from normbench.runs.job import Job
from normbench.sweeps.describe import heading

NAMES = [name for name in own("norm") if "momentum_per" in registry.facts("norm", name).options]
PARTS = [draw((6, 5), seed) + seed for seed in range(4)]  # micro-batches of unlike means


def running_mean(norm, parts):
    layer = norm.layer(5, 0).double()
    layer.running_mean.fill_(100.0)
    for part in parts:
        layer(part)
    return layer.running_mean.numpy()


def by_hand(weight):
    """The moving average of the means of PARTS, in float64."""
    value = np.full(5, 100.0)
    for part in PARTS:
        value = (1 - weight) * value + weight * part.numpy().mean(0)
    return value


@pytest.mark.parametrize("name", ["bn", "ghostbn", "brn", "evalnorm", "mean"])
def test_four_micro_batches_of_a_step_weigh_as_much_as_a_step(name):
    norm = create(name, momentum=0.3).resolve(4)
    np.testing.assert_allclose(running_mean(norm, PARTS), by_hand(1 - 0.7**0.25), rtol=1e-12)


def test_forward_gives_each_micro_batch_the_whole_momentum():
    norm = create("bn", momentum=0.3, momentum_per="forward").resolve(4)
    np.testing.assert_allclose(running_mean(norm, PARTS), by_hand(0.3), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_after_a_step_the_old_values_keep_what_momentum_leaves_them(name):
    norm = create(name, momentum=0.3)
    assert norm.resolve(1) is norm
    for count in (2, 4, 7):
        assert (1 - norm.resolve(count).momentum) ** count == pytest.approx(0.7, rel=1e-12)
    assert create(name, momentum=1.0).resolve(3).momentum == 1
    assert create(name, momentum=0.0).resolve(3).momentum == 0


def test_the_plain_average_stays_one():
    assert create("bn", momentum=None).resolve(4).momentum is None


def test_chunks_and_micro_batches_leave_nearly_the_same_running_statistics():
    """Chunks take momentum/K each: the old values keep (1 - 0.1 / 4)^4 = 0.904 and not 0.9."""
    jobs = [
        Job(config("model=mlp", "norm=bn", "batch=32", "steps=1", word))
        for word in ("accumulate=4", "norm_batch=8")
    ]
    for job in jobs:
        list(job.rows())
    layers = [[m for m in job.model.modules() if isinstance(m, Running)] for job in jobs]
    assert layers[0]
    for one, other in zip(*layers, strict=True):
        torch.testing.assert_close(one.running_mean, other.running_mean, rtol=0.05, atol=1e-3)
        torch.testing.assert_close(one.running_var, other.running_var, rtol=0.05, atol=1e-3)


def test_the_heading_says_what_momentum_is_of():
    words = ("norm=bn", "norm.momentum=0.2", "batch=32", "accumulate=4")
    assert "norm.momentum=0.2 per step of 4 micro-batches" in heading(config(*words), 1)[1]
    more = heading(config(*words, "norm.momentum_per=forward"), 1)[1]
    assert "norm.momentum=0.2 per micro-batch" in more
    assert "momentum" not in heading(config("norm=bn", "batch=32"), 1)[1]
    chain = heading(config("norm=ws+bn", "batch=32", "accumulate=2"), 1)[1]
    assert "norm.bn.momentum=0.1 per step of 2 micro-batches" in chain
