"""`data.resample`: each seed draws its training images and those for validation anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import document, normbench

from normbench.data._base import Dataset
from normbench.data._resample import resampled
from normbench.data.synthetic import Synthetic
from normbench.results import notes
from normbench.runs import build
from normbench.settings import compose

TINY = ["data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=32", "device=cpu"]


def whole() -> Dataset:
    return Synthetic(shape=[1, 8, 8]).load()


def rows(*parts: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for part in parts for image in part.contiguous()}


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, -3])
def test_the_same_images_are_dealt_otherwise_and_each_class_has_its_share(seed: int) -> None:
    before = whole()
    after = resampled(before, seed, len(before.train), cut=True)
    assert (len(after.train), len(after.val)) == (len(before.train), len(before.val))
    old, new = (rows(d.train.images, d.val.images) for d in (before, after))
    assert old == new
    assert not rows(after.train.images) & rows(after.val.images)
    assert rows(after.val.images) != rows(before.val.images)
    counts = torch.bincount(after.val.labels, minlength=10)
    assert counts.max() - counts.min() <= 1
    assert after.test is before.test


def test_a_seed_draws_the_same_again_and_a_smaller_subset_of_it() -> None:
    before = whole()
    one, again, small = (resampled(before, 3, size, cut=True) for size in (500, 500, 200))
    assert torch.equal(one.train.images, again.train.images)
    assert torch.equal(one.train.images[:200], small.train.images)
    assert torch.equal(one.val.labels, small.val.labels)
    assert torch.bincount(small.train.labels).tolist() == [20] * 10
    other = resampled(before, 4, 500, cut=True)
    assert not torch.equal(one.train.images, other.train.images)


def test_a_validation_part_of_its_own_stays() -> None:
    before = whole()
    after = resampled(before, 0, 500, cut=False)
    assert after.val is before.val
    assert rows(after.train.images) < rows(before.train.images)


def test_a_run_has_the_images_of_its_seed() -> None:
    def drawn(*words: str) -> Dataset:
        (cell,) = compose.Grid(compose.loader()).cells(["data=mnist", *words], False)
        assert cell.config is not None
        return build.data(cell.config)

    fixed = drawn("data.train_size=300")
    first, second = (
        drawn("data.train_size=300", "data.resample=true", f"seed={k}") for k in (0, 1)
    )
    assert len(first.train) == len(second.train) == 300
    assert rows(first.val.images) != rows(second.val.images)
    assert not rows(first.train.images) & rows(first.val.images)
    assert rows(first.train.images) != rows(fixed.train.images)


def test_norms_of_one_seed_see_the_same_images_and_the_note_says_what_varies(
    tmp_path: Path,
) -> None:
    words = [
        *TINY,
        "norm=none,bn",
        "data.train_size=400",
        "steps=30",
        "batch=16",
        "optimizer.lr=0.3",
        "seeds=3",
        "tb=false",
    ]
    done = normbench("train", "-m", *words, "data.resample=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert notes.RESAMPLED in done.stdout
    found = document("compare", cwd=tmp_path)
    assert notes.RESAMPLED in normbench("compare", cwd=tmp_path).stdout
    assert found["comparison"]["blocks"][0]["arms"][0]["runs"] == 3
    fixed = normbench("train", "-m", *words, cwd=tmp_path)
    assert notes.FIXED in fixed.stdout
    losses = {
        tuple(
            json.loads(path.read_text())["final"]["val/loss"]
            for path in sorted(folder.glob("*/status.json"))
        )
        for folder in tmp_path.glob("outputs/runs/mlp-width32-none-*")
    }
    assert len(losses) == 2
