"""A number that is not finite, wherever it is met, ends a run as diverged."""

from __future__ import annotations

import math

import pytest
import torch
from engine.test_train import config, kinds
from torch import nn

from normbench.results.groups import Result
from normbench.runs.job import Job
from normbench.runs.reader import read_status
from normbench.runs.run import run

SHORT = ("steps=3", "batch=32", "eval_every=9")


def end(job: Job):
    *_, before, last = job.rows()
    return before, last.values


def test_a_last_update_to_infinite_weights_is_a_divergence(tmp_path):
    words = ("model=mlp", "norm=none", "steps=1", "optimizer.lr=1e30", "lr_rule=none")
    done = config(*words, "schedule=constant", "warmup=0", "seed=2", f"outputs={tmp_path}")
    assert run(done) == "diverged"
    status = read_status(done.directory)
    assert (status["bad_step"], status["bad_quantity"]) == (1, "val/loss")
    assert "test/accuracy" not in status["final"]


def spoil(job: Job, after: int, change):
    """Change something after so many optimizer steps."""
    step, done = job.optimizer.step, []

    def changed(lr):
        step(lr)
        done.append(lr)
        if len(done) == after:
            with torch.no_grad():
                change(job.model)

    job.optimizer.step = changed
    return job


@pytest.mark.parametrize(
    ("norm", "change", "quantity"),
    [
        ("bn", lambda model: model.get_buffer("layer1.norm.running_var").fill_(math.inf), None),
        ("none", lambda model: model.head.bias[0].fill_(-math.inf), "val/loss"),
        ("none", lambda model: model.head.bias[0].fill_(math.nan), "val/loss"),
    ],
    ids=["statistic", "logit", "parameter"],
)
def test_what_is_not_finite_is_named_with_its_step(norm, change, quantity):
    job = spoil(Job(config(f"norm={norm}", *SHORT)), 3, change)
    before, values = end(job)
    assert (values["state"], values["bad_step"]) == ("diverged", 3)
    assert values["bad_quantity"] == (quantity or "model/layer1.norm.running_var")
    assert before.kind == "val"


def test_an_infinite_logit_of_another_class_is_met_although_the_loss_is_finite():
    class Ninety(nn.Module):
        def forward(self, x):
            return x.new_zeros(len(x), 10).index_fill(1, torch.tensor([9]), -math.inf)

    job = Job(config("norm=none", *SHORT))
    job.evaluator.model = Ninety()
    job.evaluator.val = job.evaluator.val.only(job.evaluator.val.labels != 9)
    assert math.isnan(next(iter(job.evaluator.validation(0))).values["val/loss"])


def test_a_parameter_that_moves_no_logit_is_met_as_well():
    class Spare(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.spare = model, nn.Parameter(torch.tensor([math.nan]))

        def forward(self, x):
            return self.model(x)

    job = Job(config("norm=none", *SHORT))
    job.evaluator.model = Spare(job.model)
    rows = job.rows()
    assert [row.kind for row in rows] == ["val", "end"]
    job.evaluator.model = Spare(job.model)
    values = list(job.rows())[-1].values
    assert (values["bad_step"], values["bad_quantity"]) == (0, "model/spare")


def test_a_test_that_overflows_is_a_divergence():
    job = Job(config("norm=none", *SHORT))
    feed = job.evaluator.tests["test"]
    job.evaluator.tests["test"] = feed.with_shift(lambda x, numbers: x * math.inf)
    before, values = end(job)
    assert before.kind == "test" and math.isnan(before.values["test/loss"])
    assert values["bad_quantity"] == "test/loss" and values["bad_step"] == 3


def test_an_evaluation_of_finite_weights_that_overflows_is_a_divergence_of_its_own():
    job = Job(config("norm=none", *SHORT))
    with torch.no_grad():
        job.model.head.bias[9] = math.inf  # the accuracy is the share of class 9
    assert math.isnan(job.evaluator.train_accuracy())
    final = {"test/accuracy": 0.9, "test/loss": 0.3, "test/accuracy/invert": 0.9}
    judged = Result("x/seed0", {}, "finished", {**final, "test/loss/invert": None})
    outcomes = [judged.outcome(f"test/accuracy{end}") for end in ("", "/invert")]
    assert [each and each.kind for each in outcomes] == ["trained", "diverged"]


def test_a_finite_run_is_finished():
    assert end(Job(config("norm=bn", *SHORT)))[1] == {"state": "finished"}


def test_a_tuning_run_that_ends_infinite_is_diverged():
    done = config("norm=none", "optimizer.lr=1e30", "lr_rule=none", "warmup=0", "steps=1")
    rows = list(Job(done.tuning_run(1e30, 0)).rows())
    assert kinds(rows, "end")[0].values["state"] == "diverged"
