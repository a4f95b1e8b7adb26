"""Statistics over several images in evaluation are those of batches as training draws them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from normbench.engine.evaluate import Evaluator
from normbench.runs.job import Job
from normbench.settings import compose

# A validation split that lies dealt class by class, as those of MNIST and image folders do.
WORDS = ("model=mlp", "norm=bn", "batch=8", "steps=300", "data.train_size=3500", "device=cpu")
SHUFFLINGS = 40


@pytest.fixture(scope="module")
def trained() -> Job:
    (cell,) = compose.Grid(compose.loader()).cells([*WORDS, "eval_every=99"], False)
    job = Job(cell.config)
    list(job.rows())
    job.model.double()
    return job


def forward(job: Job, x: torch.Tensor, in_training: bool) -> torch.Tensor:
    """The logits of an mlp with bn, (B, 10), in float64."""
    tensors = job.model.state_dict()
    for k in (1, 2, 3):
        z = x @ tensors[f"layer{k}.linear.weight"].T
        mean, var = (tensors[f"layer{k}.norm.running_{name}"] for name in ("mean", "var"))
        if in_training:
            mean, var = z.mean(0), z.var(0, False)
        z = (z - mean) / (var + 1e-5).sqrt()
        x = (z * tensors[f"layer{k}.norm.weight"] + tensors[f"layer{k}.norm.bias"]).relu()
    return x @ tensors["head.weight"].T + tensors["head.bias"]


def images(job: Job, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = job.evaluator.val.gather(index)
    return x.flatten(1).double(), y


def hits(job: Job, index: torch.Tensor, in_training: bool) -> float:
    """The share of hits among images in batches of 8."""
    found = 0
    for part in index.split(8):
        x, y = images(job, part)
        found += int((forward(job, x, in_training).argmax(1) == y).sum())
    return found / len(index)


def shuffled(count: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    return [torch.randperm(5000, generator=random)[:count] for _ in range(SHUFFLINGS)]


def close_to_the_mean(value: float, values: list[float]) -> None:
    """The value is one that a shuffling could give: within 4 standard deviations of the mean."""
    every = torch.tensor(values, dtype=torch.float64)
    assert abs(value - every.mean()) < 4 * every.std(), (value, every.mean(), every.std())


def test_the_gap_is_that_of_shuffled_images(trained):
    trained.model.float()
    gap = next(iter(trained.evaluator.validation(300))).values["gap/accuracy"]
    trained.model.double()
    values = [hits(trained, index, True) - hits(trained, index, False) for index in shuffled(1000)]
    close_to_the_mean(gap, values)
    in_order = torch.arange(1000)
    wrong = hits(trained, in_order, True) - hits(trained, in_order, False)
    assert abs(wrong - sum(values) / len(values)) > 0.04  # what the order of the data would give


def test_evaluation_by_batch_is_that_of_shuffled_images(trained):
    job = trained
    feeds = {"train": job.train, "val": job.evaluator.val}
    budget = dataclasses.replace(job.budget, eval_stats="batch", diagnose="off")
    step = job.train_step
    evaluator = Evaluator(job.model.float(), step.cast, step.norm, feeds, budget)
    accuracy = next(iter(evaluator.validation(300))).values["val/accuracy"]
    job.model.double()
    close_to_the_mean(accuracy, [hits(job, index, True) for index in shuffled(5000)[:10]])


def test_the_layers_are_those_of_shuffled_images(trained):
    job = trained
    budget = dataclasses.replace(job.budget, diagnose="full")
    feeds = {"train": job.train, "val": job.evaluator.val}
    step = job.train_step
    evaluator = Evaluator(job.model.float(), step.cast, step.norm, feeds, budget)
    _, layers = list(evaluator.validation(300))
    job.model.double()
    deviations = []
    for index in shuffled(496):
        total = torch.zeros(2, dtype=torch.float64)
        for part in index.split(8):
            x, y = images(job, part)
            logits = forward(job, x, True).requires_grad_()
            (F.cross_entropy(logits, y) * (8 / 496)).backward()
            total[0] += logits.grad.square().sum()
        deviations.append(float(total[0].sqrt()))
    close_to_the_mean(layers.values["layer/4-head/output_grad_norm"], deviations)


@pytest.mark.parametrize("order", ["iid", "sorted", "classes", "dirichlet", "balanced"])
def test_each_image_counts_once_whatever_the_order(order):
    words = ("data=synthetic", "norm=bn", "batch=48", "steps=1", f"order={order}", "device=cpu")
    (cell,) = compose.Grid(compose.loader()).cells([*words, "eval_stats=batch"], False)
    job = Job(cell.config)
    batches = list(job.evaluator._batches(job.evaluator.val))
    assert sorted(torch.cat(batches).tolist()) == list(range(len(job.evaluator.val)))
    assert all(48 <= len(index) < 96 for index in batches)
    if order == "sorted":
        labels = job.evaluator.val.labels
        assert all(len(set(labels[index[:48]].tolist())) <= 2 for index in batches)


def test_all_configurations_of_a_seed_see_the_same_batches():
    def drawn(*words: str) -> torch.Tensor:
        given = ["data=synthetic", "batch=32", "steps=1", "device=cpu", *words]
        (cell,) = compose.Grid(compose.loader()).cells(given, False)
        job = Job(cell.config)
        return job.evaluator._drawn(job.evaluator.val)[0]

    assert torch.equal(drawn("norm=bn"), drawn("norm=gn", "model=mlp", "optimizer=adam"))
    assert not torch.equal(drawn("norm=bn"), drawn("norm=bn", "seed=1"))
