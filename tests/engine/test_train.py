"""The engine: batches, schedules, what a step computes, how a run ends."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from normbench.engine.loader import Feed
from normbench.engine.transforms import standardized
from normbench.errors import ModelError
from normbench.rows import Row
from normbench.runs.job import Job
from normbench.settings import compose
from normbench.settings.schema import Config

SMALL = ("data=synthetic", "data.shape=[1,8,8]", "device=cpu", "model=mlp", "model.width=16")
MAPS = ("data=synthetic", "data.shape=[3,8,8]", "device=cpu", "model=cnn")


def config(*words: str) -> Config:
    given = {word.partition("=")[0] for word in words}
    base = [
        word
        for word in (MAPS if "model=cnn" in words else SMALL)
        if word.partition("=")[0] not in given
    ]
    (cell,) = compose.Grid(compose.loader()).cells([*base, *words], False)
    assert cell.config
    return cell.config


def rows(*words: str) -> list[Row]:
    return list(Job(config(*words)).rows())


def kinds(found: list[Row], kind: str) -> list[Row]:
    return [row for row in found if row.kind == kind]


def test_an_epoch_uses_each_example_at_most_once() -> None:
    feed = Job(config("batch=64")).train
    order = feed.order(seed=0, epoch=0, batch=64)
    assert order.shape == (2000 // 64, 64)
    assert len(set(order.flatten().tolist())) == order.numel()


def test_order_depends_on_seed_and_epoch_only() -> None:
    one, other = Job(config("norm=bn")).train, Job(config("norm=gn", "model.depth=5")).train
    assert torch.equal(one.order(3, 1, 32), other.order(3, 1, 32))
    assert not torch.equal(one.order(3, 1, 32), one.order(3, 2, 32))
    assert not torch.equal(one.order(3, 1, 32), one.order(4, 1, 32))


def test_batches_are_standardized_pixels() -> None:
    job = Job(config("model=cnn", "norm=gn"))
    x, y = job.train.gather(torch.arange(50))
    from normbench.runs import build

    data = build.data(job.config)
    pixels = data.train.images[:50].double() / 255
    mean = torch.tensor(data.mean).double().reshape(-1, 1, 1)
    std = torch.tensor(data.std).double().reshape(-1, 1, 1)
    assert torch.allclose(x.double(), (pixels - mean) / std, atol=1e-5)
    assert torch.equal(y, data.train.labels[:50])
    again, _ = job.train.gather(torch.arange(0, 50))
    assert torch.equal(x, again)


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_feature_maps_have_the_format_of_the_norm(norm: str) -> None:
    job = Job(config("model=cnn", f"norm={norm}"))
    x, _ = job.train.gather(torch.arange(4))
    last = norm == "bn"
    assert x.is_contiguous(memory_format=torch.channels_last) == last
    assert x.is_contiguous() != last


def test_initial_weights_do_not_depend_on_norm_bias_or_placement() -> None:
    weights = [
        {k: v for k, v in Job(config(*words)).model.state_dict().items() if "linear.weight" in k}
        for words in (["norm=none"], ["norm=bn"], ["norm=gn", "placement=post"], ["bias=off"])
    ]
    for other in weights[1:]:
        assert weights[0].keys() == other.keys()
        assert all(torch.equal(weights[0][key], other[key]) for key in other)


def test_the_same_configuration_gives_the_same_rows_and_weights() -> None:
    def once() -> tuple[list[Row], str]:
        job = Job(config("dropout=0.2", "norm=bn", "steps=30"))
        return list(job.rows()), job.state_sha256()

    assert once() == once()


def test_global_random_state_is_neither_used_nor_changed() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = rows("dropout=0.2", "steps=10")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert rows("dropout=0.2", "steps=10") == first


def test_rows_come_in_their_order() -> None:
    found = rows("steps=20", "eval_every=0.2", "log_every=5", "batch=32")
    assert [(row.kind, row.step) for row in found if row.kind != "train"] == [
        ("val", 0),
        ("val", 12),
        ("val", 20),
        ("test", 20),
        ("end", 20),
    ]
    assert [row.step for row in kinds(found, "train")] == [5, 10, 12, 15, 20]
    before = [found[place - 1] for place, row in enumerate(found) if row.kind == "val" and place]
    assert [(row.kind, row.step) for row in before] == [("train", 12), ("train", 20)]
    assert found[-1].values == {"state": "finished"}
    assert all(row.examples == 32 * row.step for row in found)


def test_training_rows_are_means_since_the_last_one() -> None:
    every = kinds(rows("steps=12", "log_every=1", "norm=gn", "eval_every=1"), "train")
    fours = kinds(rows("steps=12", "log_every=4", "norm=gn", "eval_every=1"), "train")
    for place, row in enumerate(fours):
        losses = [each.values["train/loss"] for each in every[4 * place : 4 * place + 4]]
        assert row.values["train/loss"] == pytest.approx(sum(losses) / 4, rel=1e-6)  # type: ignore[arg-type]


def test_how_often_rows_are_written_changes_no_weight() -> None:
    def digest(*words: str) -> str:
        job = Job(config("norm=bn", "steps=25", *words))
        list(job.rows())
        return job.state_sha256()

    assert digest("log_every=1") == digest("log_every=50")
    assert digest("eval_every=0.1") == digest("eval_every=1")


def test_it_learns() -> None:
    last = kinds(rows("epochs=3", "norm=bn", "model=cnn"), "test")[0]
    assert float(last.values["test/accuracy"]) > 0.5  # type: ignore[arg-type]


def test_evaluation_is_loss_and_accuracy_of_all_images() -> None:
    job = Job(config("steps=5", "norm=bn"))
    found = list(job.rows())
    x, y = job.evaluator.tests["test"].gather(torch.arange(0, 500))
    with torch.no_grad():
        logits = job.model.eval()(x)
    test = kinds(found, "test")[0].values
    assert test["test/accuracy"] == pytest.approx(float((logits.argmax(1) == y).double().mean()))
    assert test["test/loss"] == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-5)


@pytest.mark.parametrize(("norm", "differs"), [("gn", False), ("none", False), ("bn", True)])
def test_gap_is_zero_where_the_two_modes_do_not_differ(norm: str, differs: bool) -> None:
    gaps = [
        row.values["gap/accuracy"]
        for row in kinds(rows(f"norm={norm}", "batch=4", "steps=40"), "val")
    ]
    assert any(gaps) == differs


def test_gap_leaves_buffers_and_random_numbers_as_they_are() -> None:
    job = Job(config("norm=bn", "dropout=0.3", "steps=5"))
    list(job.rows())
    before = copy.deepcopy(job.model.state_dict())
    list(job.evaluator.validation(5))
    after = job.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("norm", ["none", "ln"])
def test_accumulation_is_one_large_batch_without_batch_statistics(norm: str) -> None:
    whole, parts = (
        Job(config(f"norm={norm}", "steps=5", word)) for word in ("accumulate=1", "accumulate=4")
    )
    list(whole.rows())
    list(parts.rows())
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged() -> None:
    found = rows("optimizer.lr=1e20", "norm=none", "steps=60", "warmup=0")
    end = found[-1].values
    assert end["state"] == "diverged"
    assert end["bad_step"] == 2
    assert end["bad_quantity"] in ("train/loss", "optim/grad_norm")
    assert not kinds(found, "test")


def test_gradient_norm_is_that_of_the_last_step() -> None:
    job = Job(config("norm=gn", "steps=1", "log_every=1"))
    twin = copy.deepcopy(job.model).train()
    found = kinds(list(job.rows()), "train")[0]
    x, y = job.train.gather(job.train.order(0, 0, 64)[0])
    F.cross_entropy(twin(x), y).backward()  # type: ignore[no-untyped-call]
    squares = sum(float(each.grad.square().sum()) for each in twin.parameters())  # type: ignore[union-attr]
    assert found.values["optim/grad_norm"] == pytest.approx(math.sqrt(squares), rel=1e-5)


def test_bf16_trains_with_float32_parameters() -> None:
    job = Job(config("precision=bf16", "norm=bn", "steps=20"))
    found = list(job.rows())
    assert {each.dtype for each in job.model.parameters()} == {torch.float32}
    assert found[-1].values["state"] == "finished"


def test_a_feed_may_stay_mapped_on_the_host(tmp_path: Any) -> None:
    """A split larger than memory is gathered from its file; the batch is what it would be."""
    import numpy as np

    from normbench.data._base import cut

    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="c")
    labels, scaling = np.arange(20), standardized((0.5,) * 3, (0.25,) * 3)
    feeds = [
        Feed(cut(each, labels, (20, 0, 0))[0], scaling, torch.device("cpu"), torch.channels_last)
        for each in (pixels, mapped)
    ]
    index = torch.tensor([3, 17, 5])
    assert torch.equal(feeds[0].gather(index)[0], feeds[1].gather(index)[0])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_epoch_may_begin_in_its_middle(accumulate: int) -> None:
    words = ("data=synthetic", "model=rnn", "blank_steps=3", "augment=flip", "batch=32")
    (cell,) = compose.Grid(compose.loader()).cells(
        [*words, f"accumulate={accumulate}", "device=cpu"], False
    )
    assert cell.config
    feed = Job(cell.config).train
    whole, rest = list(feed.epoch(1)), list(feed.epoch(1, first=5))
    assert len(whole) == len(rest) + 5 == len(feed) // 32
    for (x, y), (x_rest, y_rest) in zip(whole[5:], rest, strict=True):
        assert torch.equal(x, x_rest) and torch.equal(y, y_rest)
    assert not torch.equal(whole[0][1], next(feed.epoch(2))[1])


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("shape", ["[1,8,8]", "[3,8,8]", "[1,7,7]"])
@pytest.mark.parametrize(
    "words",
    [["batch=2"], ["batch=32", "accumulate=2", "norm=gn"], ["batch=2", "augment=crop+flip+cutout"]],
    ids=" ".join,
)
def test_batches_are_those_that_are_gathered_one_by_one(
    words: list[str], shape: str, first: int
) -> None:
    feed = Job(config("model=cnn", f"data.shape={shape}", *words)).train
    how = feed.sampling
    order = feed.order(how.seed, 1, how.batch)
    noise = feed.augment_noise(how.seed, 1, *order.shape)
    found = list(feed.epoch(1, first))
    assert len(found) == len(order) - first
    for place, (x, y) in enumerate(found, first):
        alone, labels = feed.gather(order[place], 0, noise[place])
        assert torch.equal(x, alone) and torch.equal(y, labels)
        assert x.stride() == alone.stride()
        assert x.data_ptr() % 64 == 0


def test_noise_shifts_units_after_the_norm_in_training_alone() -> None:
    job = Job(config("noise=0.5", "norm=bn", "model=mlp"))
    unit = job.model.get_submodule("layer1")
    assert [name for name, _ in unit.named_children()] == ["linear", "norm", "noise", "act"]
    noise = unit.get_submodule("noise")
    noise.generator = torch.Generator().manual_seed(1)  # type: ignore[assignment]
    x = torch.ones(400, 300, dtype=torch.float64)
    shifts = noise(0 * x)
    scales = noise(x) - noise(0 * x)
    means = shifts.mean(0)
    assert float(means.abs().max()) < 0.25 + 0.01 and float(means.std()) == pytest.approx(
        0.5 / 12**0.5, rel=0.1
    )
    assert float((shifts - means).abs().max()) < 0.05 + 0.01
    assert scales.shape == x.shape and float(scales.mean()) == pytest.approx(1 + 0.0625, abs=0.02)
    assert torch.equal(noise.eval()(x), x)
    assert rows("noise=1", "norm=bn", "steps=10") == rows("noise=1", "norm=bn", "steps=10")
    with pytest.raises(ModelError, match="noise=1 has no place: norm=none"):
        Job(config("noise=1", "norm=none"))
