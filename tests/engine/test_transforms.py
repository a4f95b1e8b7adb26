"""Scalings, shifts of test images and mixed domains, against their equations in float64."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.test_train import config, kinds
from torch import Tensor

from normbench.cli.main import main
from normbench.data._base import Dataset, Split
from normbench.engine import transforms
from normbench.runs import build
from normbench.runs.job import Job
from normbench.runtime import rng
from normbench.settings import declared, inputs
from normbench.settings.schema import Config

SCALINGS = ("standardized", "raw", "uneven", "per_feature", "whitened")
COLOURS = "data.shape=[3,8,8]"


def colours(*words: str) -> Config:
    return config(COLOURS, "model.width=16", *words)


def pixels(split: Split) -> np.ndarray[Any, Any]:
    """The images as float64 in 0 .. 255, one row of features (C, H, W) each."""
    return split.images.flatten(1).double().numpy()


def scaled(kind: str, data: Dataset, images: Tensor) -> np.ndarray[Any, Any]:
    """What a model sees of images, one row each."""
    y = transforms.scaling(kind, data)(images.float())
    assert y.dtype == torch.float32
    assert y.shape == images.shape
    return y.flatten(1).double().numpy()


def by_channel(data: Dataset, split: Split) -> np.ndarray[Any, Any]:
    """Pixels standardized by the constants of their channel."""
    repeats = np.prod(data.shape[1:])
    mean, std = (np.repeat(each, repeats) for each in (data.mean, data.std))
    return (pixels(split) / 255 - mean) / std


@pytest.fixture(scope="module")
def data() -> Dataset:
    return build.data(colours())


# ---- scalings ----


def test_standardized_inputs_have_mean_0_and_deviation_1_in_each_channel(data: Dataset) -> None:
    z = scaled("standardized", data, data.train.images).reshape(-1, 3, 64)
    assert np.abs(z.mean((0, 2))).max() < 0.01
    assert np.abs(z.std((0, 2)) - 1).max() < 0.01
    np.testing.assert_allclose(z.reshape(-1, 192), by_channel(data, data.train), atol=1e-5)


def test_raw_inputs_are_the_pixels(data: Dataset) -> None:
    assert np.array_equal(scaled("raw", data, data.val.images), pixels(data.val))


def test_uneven_inputs_are_standardized_ones_times_a_factor_for_each_feature(data: Dataset) -> None:
    ratio = scaled("uneven", data, data.val.images) / by_channel(data, data.val)
    powers = np.log10(np.median(ratio, 0))
    np.testing.assert_allclose(np.log10(ratio), np.tile(powers, (len(ratio), 1)), atol=1e-3)
    assert -2 <= powers.min() < -1.8
    assert 1.8 < powers.max() <= 2
    assert abs(powers.mean()) < 0.3  # 3.6 times the deviation of a mean of 192
    assert len(set(powers.round(6))) == 192


def test_uneven_factors_are_the_same_for_all_seeds_and_training_sets() -> None:
    factors = [
        Job(colours("inputs=uneven", *words)).train.scaling.scale
        for words in ((), ("seed=3",), ("data.train_size=100", "batch=8"))
    ]
    assert factors[0].equal(factors[1])
    assert factors[0].equal(factors[2])


def test_inputs_scaled_per_feature_have_the_mean_and_deviation_of_each_feature(
    data: Dataset,
) -> None:
    z = by_channel(data, data.train)
    expected = (by_channel(data, data.test) - z.mean(0)) / np.sqrt(z.var(0) + 0.01)
    found = scaled("per_feature", data, data.test.images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    y = scaled("per_feature", data, data.train.images)
    assert np.abs(y.mean(0)).max() < 1e-5
    np.testing.assert_allclose(y.std(0), np.sqrt(z.var(0) / (z.var(0) + 0.01)), atol=1e-5)


def test_whitened_inputs_are_those_of_zca(data: Dataset) -> None:
    z = by_channel(data, data.train)
    mean = z.mean(0)
    _, singular, axes = np.linalg.svd(z - mean, full_matrices=False)
    root = axes.T @ np.diag((singular**2 / len(z) + 0.1) ** -0.5) @ axes
    expected = (by_channel(data, data.test) - mean) @ root
    found = scaled("whitened", data, data.test.images)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_whitened_inputs_are_not_correlated_and_of_variance_s_by_s_plus_eps(data: Dataset) -> None:
    variances = np.linalg.eigvalsh(np.cov(by_channel(data, data.train).T, bias=True))
    y = scaled("whitened", data, data.train.images)
    found = np.linalg.eigvalsh(np.cov(y.T, bias=True))
    np.testing.assert_allclose(found, variances / (variances + 0.1), atol=1e-5)


def test_a_feature_that_never_varies_stays_finite(data: Dataset) -> None:
    images = data.train.images.clone()
    images[:, :, 0, 0] = 7
    dull = dataclasses.replace(data, train=Split(images, data.train.labels))
    for kind in SCALINGS:
        assert np.abs(scaled(kind, dull, images)).max() < 1e4


@pytest.mark.parametrize("kind", ["per_feature", "whitened"])
def test_only_training_images_decide_how_inputs_are_scaled(kind: str, data: Dataset) -> None:
    def changed(name: str) -> Dataset:
        part = getattr(data, name)
        return dataclasses.replace(data, **{name: Split(255 - part.images, part.labels)})

    usual = scaled(kind, data, data.test.images)
    for name in ("val", "test"):
        assert np.array_equal(usual, scaled(kind, changed(name), data.test.images))
    assert not np.array_equal(usual, scaled(kind, changed("train"), data.test.images))


def test_whitening_has_the_same_bits_with_any_number_of_threads(data: Dataset) -> None:
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(transforms.scaling("whitened", data).matrix)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert found[0] is not None
    assert found[0].equal(found[1])  # type: ignore[arg-type]


def test_whitened_inputs_are_float32_under_autocast(data: Dataset) -> None:
    scaling = transforms.scaling("whitened", data)
    usual = scaling(data.test.images.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert scaling(data.test.images.float()).equal(usual)


@pytest.mark.parametrize("kind", SCALINGS)
def test_a_run_sees_the_scaled_images_in_all_its_parts(kind: str) -> None:
    job = Job(config("model=cnn", COLOURS, f"inputs={kind}"))
    data = build.data(job.config)
    for feed, split in ((job.train, data.train), (job.evaluator.val, data.val)):
        x, y = feed.gather(torch.arange(3, 40))
        expected = scaled(kind, data, split.images[3:40])
        np.testing.assert_allclose(x.flatten(1).double().numpy(), expected, rtol=1e-5, atol=1e-5)
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert y.equal(split.labels[3:40])
        assert feed.gather(torch.arange(3, 40))[0].allclose(x)


def test_a_scaling_is_computed_once_per_process() -> None:
    chosen = colours("inputs=whitened")
    assert build.scaling(chosen) is build.scaling(dataclasses.replace(chosen, seed=4))


# ---- shifts of test images ----


def shifted(word: str, images: Tensor, first: int = 0) -> np.ndarray[Any, Any]:
    """A shift of pixels 0 .. 255, as numbers in 0 .. 1."""
    return (
        transforms.Shift(*inputs.read_shift(word))(
            images.float(), range(first, first + len(images))
        )
        .double()
        .numpy()
        / 255
    )


def drawn(shape: tuple[int, ...] = (4, 3, 5, 6)) -> Tensor:
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, 256, shape)).to(torch.uint8)


@pytest.mark.parametrize(
    ("word", "formula"),
    [
        ("invert", lambda x, m: 1 - x),
        ("brightness+0.5", lambda x, m: x + 0.5),
        ("brightness-.25", lambda x, m: x - 0.25),
        ("contrast*0.5", lambda x, m: m + 0.5 * (x - m)),
        ("contrast*2", lambda x, m: m + 2 * (x - m)),
    ],
)
def test_a_shift_changes_pixels_as_it_says_and_clips_them(word: str, formula: Any) -> None:
    images = drawn()
    x = images.double().numpy() / 255
    expected = formula(x, x.mean((2, 3), keepdims=True)).clip(0, 1)
    np.testing.assert_allclose(shifted(word, images), expected, atol=1e-6)


def test_noise_is_normal_and_of_the_deviation_that_is_named() -> None:
    grey = torch.full((50, 1, 40, 40), 127.5)
    noise = shifted("noise+0.1", grey) - 0.5
    assert abs(noise.mean()) < 0.002
    assert abs(noise.std() - 0.1) < 0.002
    assert abs((np.abs(noise) < 0.1).mean() - 0.6827) < 0.01
    assert shifted("noise+0.5", grey).max() == 1


def test_noise_is_another_for_each_image_and_does_not_depend_on_the_batches() -> None:
    images = drawn((9, 1, 6, 6))
    whole = shifted("noise+0.5", images)
    parts = [shifted("noise+0.5", images[at : at + 4], at) for at in (0, 4, 8)]
    assert np.array_equal(whole, np.concatenate(parts))
    grey = torch.full((2, 1, 6, 6), 127.5)
    assert not np.array_equal(*shifted("noise+0.1", grey))


@pytest.mark.parametrize(
    "word",
    [
        *("blur", "invert+1", "invert*", "contrast", "contrast*", "contrast+2", "brightness*2"),
        *("noise-0.5", "noise+1e3", "noise+9999", "noise+nan", "Invert", "", "invert ", "+0.5"),
    ],
)
def test_words_that_name_no_shift_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="is none of invert, brightness"):
        inputs.read_shift(word)


SHIFTS = "shifts=[noise+0.5,invert,brightness-0.5]"


def after_test(*words: str) -> tuple[Job, dict[str, Any]]:
    job = Job(config("steps=20", "model=mlp", *words))
    (row,) = kinds(list(job.rows()), "test")
    return job, dict(row.values)


def test_each_shift_is_a_test_of_its_own_in_the_one_row_of_the_test() -> None:
    job, values = after_test(SHIFTS)
    assert set(values) == {
        f"test/{quantity}{name}"
        for quantity in ("loss", "accuracy")
        for name in ("", "/noise+0.5", "/invert", "/brightness-0.5")
    }
    data = build.data(job.config)
    x = job.train.scaling(255 - data.test.images.float())
    with torch.no_grad():
        logits = job.model.eval()(x)
    loss = torch.nn.functional.cross_entropy(logits, data.test.labels)
    assert values["test/loss/invert"] == pytest.approx(float(loss), rel=1e-4)
    hits = (logits.argmax(1) == data.test.labels).double().mean()
    assert values["test/accuracy/invert"] == pytest.approx(float(hits), abs=0.005)


def test_further_tests_change_nothing_else() -> None:
    plain, shifted_too = Job(config("steps=20")), Job(config("steps=20", SHIFTS))
    rows, others = (list(job.rows()) for job in (plain, shifted_too))
    for row, other in zip(rows, others, strict=True):
        assert row.values.items() <= other.values.items()
        assert row.kind == "test" or row == other
    assert plain.state_sha256() == shifted_too.state_sha256()


def test_statistics_of_the_batch_are_those_of_the_shifted_images() -> None:
    """A brightness that clips nothing is a constant, which batch normalization then removes."""
    word = "brightness+0.1"
    _, values = after_test("norm=bn", f"shifts=[{word}]", "eval_stats=batch")
    assert values[f"test/loss/{word}"] == pytest.approx(values["test/loss"], rel=1e-3)
    _, values = after_test("norm=bn", f"shifts=[{word}]")
    assert values[f"test/loss/{word}"] > 1.05 * values["test/loss"]


def test_the_order_of_the_tests_makes_no_other_run() -> None:
    one, other = config("shifts=[invert,noise+1]"), config("shifts=[noise+1,invert]")
    assert one.name == other.name == config().name
    assert one.evaluation_name == other.evaluation_name != config().evaluation_name


# ---- mixed domains ----


def labels(counts: list[int]) -> Tensor:
    every = np.repeat(np.arange(len(counts)), counts)
    return torch.from_numpy(np.random.default_rng(1).permutation(every))


def test_domains_have_half_of_each_class() -> None:
    found = labels([980, 1135, 7, 1])
    second = transforms.inverted_half(found)
    for each in range(4):
        mine = second[found == each]
        assert abs(int(mine.sum()) - int((~mine).sum())) <= len(mine) % 2
    assert 400 < int((second[1:] != second[:-1]).sum()) < 1700  # in no simple order


def test_the_domain_of_an_image_is_the_same_in_a_smaller_part() -> None:
    found = labels([50, 70, 20])
    assert transforms.inverted_half(found)[:33].equal(transforms.inverted_half(found[:33]))


def test_mixed_data_has_half_of_all_images_inverted_and_of_half_the_contrast() -> None:
    plain, mixed = (build.data(colours(word)) for word in ("mix=none", "mix=inverted"))
    for name in ("train", "val", "test"):
        before, after = getattr(plain, name), getattr(mixed, name)
        second = transforms.inverted_half(before.labels)
        assert after.images[~second].equal(before.images[~second])
        expected = 0.75 - before.images[second].double() / 255 / 2
        assert float((after.images[second].double() / 255 - expected).abs().max()) < 0.51 / 255
        assert after.labels.equal(before.labels)
        assert after.images.stride() == before.images.stride()


def test_mixed_data_is_standardized_by_the_moments_of_the_mixture() -> None:
    data = build.data(colours("mix=inverted"))
    x = torch.cat([data.train.images, data.val.images]).double() / 255
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    torch.testing.assert_close(x.mean((0, 2, 3)).float(), mean, rtol=0, atol=0.002)
    torch.testing.assert_close(x.std((0, 2, 3)).float(), std, rtol=0.01, atol=0)


def test_the_mixture_does_not_depend_on_the_seed() -> None:
    found = [Job(colours("mix=inverted", f"seed={seed}")).train.rows for seed in (0, 1)]
    assert found[0].equal(found[1])


def test_each_domain_has_a_test_of_its_own() -> None:
    job, values = after_test("mix=inverted")
    second = transforms.inverted_half(job.evaluator.tests["test"].labels)
    share = float(second.double().mean())
    parts = [values[f"test/accuracy/{name}"] for name in ("plain", "inverted")]
    assert values["test/accuracy"] == pytest.approx((1 - share) * parts[0] + share * parts[1])
    found = {
        name: feed.gather(torch.arange(0, len(feed)))[0]
        for name, feed in job.evaluator.tests.items()
    }
    assert found["plain"].equal(found["test"][~second])
    assert found["inverted"].equal(found["test"][second])


def test_the_tests_of_the_domains_take_batch_statistics_of_one_domain() -> None:
    job, values = after_test("mix=inverted", "norm=bn", "eval_stats=batch", "batch=50")
    feed, loss = job.evaluator.tests["inverted"], 0.0
    assert len(feed) == 250
    model = job.model.train().requires_grad_(False)
    random = rng.generator(rng.derive(0, "evaluation"), "order", 0)
    for index in torch.randperm(250, generator=random).split(50):
        x, y = feed.gather(index)
        loss += float(torch.nn.functional.cross_entropy(model(x), y, reduction="sum"))
    assert values["test/loss/inverted"] == pytest.approx(loss / 250, rel=1e-5)


def test_a_sweep_has_a_table_for_each_further_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "-m norm=none,ln shifts=[noise+0.5,contrast*2] model=mlp data=synthetic steps=3"
    assert main(["train", *words.split(), "tb=false", "device=cpu"]) == 0
    told = capsys.readouterr().out
    (folder,) = (tmp_path / "outputs/sweeps").iterdir()
    written = (folder / "table.md").read_text()
    for name in ("", " (contrast*2)", " (noise+0.5)"):
        assert f"test accuracy{name}, %" in told
        assert f"test accuracy{name}, %".replace("*", r"\*") in written
    assert told.index("(contrast*2)") < told.index("(noise+0.5)")


def test_the_settings_name_every_scaling() -> None:
    assert tuple(transforms.KINDS) == declared.INPUTS
