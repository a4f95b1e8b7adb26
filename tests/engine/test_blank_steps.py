"""Blank time steps before an image: what is trained and tested, against sequences made by hand."""

from __future__ import annotations

import collections

import pytest
import torch
import torch.nn.functional as F
from engine.test_train import config, kinds

from normbench.engine.evaluate import evenly
from normbench.norms._modes import update_bn
from normbench.parts import registry
from normbench.runs import build
from normbench.runs.check import check_fit
from normbench.runs.job import Job
from normbench.runtime import rng

BLANK = ("data.shape=[1,8,8]", "model.width=8", "model.rows=2", "steps=9", "eval_every=9")


def made(*words):
    return Job(config("model=rnn", *BLANK, *words))


def led(*words):
    """A run of an rnn that reads 4 time steps, with blank ones before them."""
    job = made(*words)
    return job, list(job.rows())


def padded(job, steps, split="test"):
    """All images of a part after so many blank time steps, made by hand."""
    data = build.data(job.config)
    images = getattr(data, split).images
    black = torch.zeros(len(images), 1, 2 * steps, 8)
    pixels = torch.cat([black, images.float()], 2)
    return (pixels / 255 - data.mean[0]) / data.std[0], getattr(data, split).labels


@pytest.mark.parametrize("name", registry.names("model"))
def test_a_model_that_reads_sequences_says_how_many_rows_make_a_time_step(name):
    facts = registry.facts("model", name)
    if facts.constants["recurrent"]:
        assert facts.options["rows"].default == 1
    else:
        assert "rows" not in facts.options


def test_batches_begin_with_numbers_of_blank_steps_that_are_uniform_and_paired_by_seed():
    feed = made("blank_steps=3").train
    drawn = feed.pad_steps(seed=0, epoch=0, steps=4000)
    counts = collections.Counter(drawn)
    assert set(counts) == {0, 1, 2, 3}
    assert max(abs(each - 1000) for each in counts.values()) < 100  # 3.6 deviations
    other = made("blank_steps=3", "norm=ln", "batch=32").train
    assert drawn == other.pad_steps(0, 0, 4000)
    assert drawn != feed.pad_steps(0, 1, 4000)
    assert drawn != feed.pad_steps(1, 0, 4000)
    assert made().train.pad_steps(0, 0, 5) == [0] * 5


@pytest.mark.parametrize("kind", ["standardized", "raw"])
def test_a_blank_step_is_as_many_black_rows_as_a_step_reads_scaled_as_all_pixels(kind):
    feed = made("blank_steps=3", f"inputs={kind}").train
    index = torch.tensor([4, 9])
    plain, (x, y) = feed.gather(index)[0], feed.gather(index, 3)
    black = feed.scaling(torch.zeros(1, 1, 1, 1))
    assert x.shape == (2, 1, 8 + 3 * 2, 8)
    assert x[:, :, 6:].equal(plain)
    assert x[:, :, :6].equal(black.expand(2, 1, 6, 8))
    assert y.equal(feed.labels[index])
    assert kind == "standardized" or not black.any()


def test_training_sees_blank_steps_and_validation_none():
    job = made("blank_steps=3")
    seen = []
    job.model.register_forward_pre_hook(lambda model, x: seen.append((model.training, x[0].shape)))
    list(job.rows())
    trained = [shape[2] for training, shape in seen if training and shape[0] == 64]
    leads = job.train.pad_steps(0, 0, 31)[:9]
    assert [height for height in trained if height > 8] == [8 + 2 * each for each in leads if each]
    assert {shape[2] for training, shape in seen if not training} == {8}


def test_the_first_weights_do_not_depend_on_blank_steps():
    weights = [
        dict(made(word).model.named_parameters()) for word in ("blank_steps=0", "blank_steps=3")
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(weights[0][key].equal(weights[1][key]) for key in weights[0])


@pytest.mark.parametrize(("norm", "layers"), [("bn", 4 + 3), ("ln", 1)])
def test_there_is_a_layer_for_each_step_of_the_longest_sequence_in_training(norm, layers):
    job = led("blank_steps=3", f"norm={norm}")[0]
    assert len(job.model.norm.layers) == layers
    for layer in job.model.norm.layers if layers > 1 else ():
        assert layer.running_mean.any()


@pytest.mark.parametrize("norm", ["bn", "ln", "none"])
def test_a_test_with_blank_steps_is_that_of_longer_sequences(norm):
    job, rows = led("blank_steps=1", "test_blank_steps=[0,1,6]", f"norm={norm}")
    values = kinds(rows, "test")[0].values
    for steps in (0, 1, 6):
        x, y = padded(job, steps)
        with torch.no_grad():
            loss = F.cross_entropy(job.model.eval()(x), y)
        assert values[f"test/loss/blank{steps}"] == pytest.approx(float(loss), rel=1e-4)
    assert values["test/loss/blank0"] == values["test/loss"]
    assert values["test/accuracy/blank0"] == values["test/accuracy"]
    assert values["test/loss/blank6"] != values["test/loss"]


def test_statistics_of_the_training_set_are_taken_over_all_numbers_of_blank_steps():
    job, rows = led("norm=bn", "blank_steps=2", "test_blank_steps=[4]", "eval_stats=dataset")
    x, y = padded(job, 4)
    batches, order = [], torch.randperm(2000, generator=rng.generator(0, "statistics"))
    for place, (start, stop) in enumerate(evenly(2000, 64)):
        batches.append(padded(job, place % 3, "train")[0][order[start:stop]])
    update_bn(job.model, batches)
    with torch.no_grad():
        loss = F.cross_entropy(job.model.eval()(x), y)
    found = kinds(rows, "test")[0].values["test/loss/blank4"]
    assert found == pytest.approx(float(loss), rel=1e-4)


def test_blank_steps_do_not_change_the_answer_to_rows_that_do_not_divide():
    chosen = config("model=rnn", "data.shape=[1,8,8]", "model.rows=3", "blank_steps=2")
    assert str(check_fit(chosen, (1, 8, 8), 10).error) == (
        "normbench: error: model.rows=3: the 8 rows of an image do not divide into steps of 3 "
        "(divisors: 1, 2, 4, 8)\n  try: model.rows=2"
    )


def test_by_statistics_of_the_batch_each_step_of_a_longer_sequence_has_its_own():
    job, rows = led("norm=bn", "test_blank_steps=[3]", "eval_stats=batch", "batch=100")
    (x, y), p = padded(job, 3), job.model.state_dict()
    loss = 0.0
    random = rng.generator(rng.derive(0, "evaluation"), "order", 0)
    for index in torch.randperm(500, generator=random).split(100):
        h = torch.zeros(100, 8)
        for now in x[index].reshape(100, 7, 16).unbind(1):
            z = now @ p["input.linear.weight"].T + h @ p["hidden.linear.weight"].T
            z = (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()
            h = torch.tanh(z * p["norm.layers.0.weight"] + p["norm.layers.0.bias"])
        logits = h @ p["head.weight"].T + p["head.bias"]
        loss += float(F.cross_entropy(logits, y[index], reduction="sum"))
    found = kinds(rows, "test")[0].values["test/loss/blank3"]
    assert found == pytest.approx(loss / 500, rel=1e-4)
