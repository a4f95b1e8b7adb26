"""Chance is the share of the largest class of the set that is judged, in whole runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from commands import normbench
from PIL import Image

PARTS = {"train": (180, 20), "val": (45, 5), "test": (87, 13)}  # images of a and of b
RUN = ["model=mlp", "model.width=32", "norm=none", "batch=20", "warmup=0", "tb=false", "device=cpu"]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that are told apart by their brightness, one of them with nine images in ten."""
    root = tmp_path_factory.mktemp("uneven")
    random = np.random.default_rng(0)
    for part, counts in PARTS.items():
        for name, count, grey in zip("ab", counts, (60, 190), strict=True):
            (root / part / name).mkdir(parents=True)
            for k in range(count):
                pixels = random.integers(grey - 60, grey + 60, (4, 4)).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{k}.png")
    return root


def test_the_first_row_says_the_share_of_the_largest_class(uneven: Path, tmp_path: Path) -> None:
    data = ["data=imagefolder", f"data.path={uneven}", "data.root=.", "steps=2"]
    done = normbench("train", *RUN, *data, "optimizer.lr=1e-9", "lr_rule=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (metrics,) = tmp_path.rglob("metrics.jsonl")
    first = json.loads(metrics.read_text().splitlines()[0])
    assert (first["chance/val"], first["chance/test"]) == (0.9, 0.87)
    for part, shares in {"val": (0.9, 0.1), "test": (0.87, 0.13)}.items():
        entropy = -sum(share * np.log(share) for share in shares)
        assert first[f"chance/{part}_loss"] == pytest.approx(entropy, rel=1e-12)


def test_a_run_that_diverges_in_its_pretraining_counts_at_the_same_chance(
    uneven: Path, tmp_path: Path
) -> None:
    """It ends before the first validation, and counted as 1 / classes, 50 %."""
    data = ["data=imagefolder", f"data.path={uneven}", "data.root=.", "steps=2"]
    start = ["init=autoencoder", "init.lr=1e30", "init.steps=20"]
    done = normbench("train", *RUN, *data, *start, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 diverged, which counts as chance, 87.0 %" in done.stdout


def test_a_run_that_learned_nothing_of_an_uneven_set_is_stuck(uneven: Path, tmp_path: Path) -> None:
    data = ["data=imagefolder", f"data.path={uneven}", "data.root=.", "steps=120"]
    rates = ["optimizer.lr=1e-9,0.1", "lr_rule=none", "seed=1"]
    done = normbench("train", "-m", *RUN, *data, *rates, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.rglob("results.csv")
    found = list(csv.DictReader(path.read_text().splitlines()))
    assert {float(run["chance/test"]) for run in found} == {0.87}
    kinds = {run["optimizer.lr"]: run["outcome"] for run in found}
    assert kinds == {"1e-09": "stuck", "0.1": "trained"}
    assert "1 stuck at most 5 points above chance, 87.0 %: the share" in done.stdout


def test_no_rate_is_chosen_at_which_nothing_is_learned(uneven: Path, tmp_path: Path) -> None:
    """Against 1 / classes = 50 %, the 90 % of a constant answer looked like learning."""
    data = ["data=imagefolder", f"data.path={uneven}", "data.root=.", "steps=120"]
    tuning = ["tune=lr", "tune_lrs=[1e-9,1e-8,0.1,1e20]", "tune_seeds=2", "lr_rule=none"]
    done = normbench("train", *RUN, *data, *tuning, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.rglob("tune.csv")
    found = list(csv.DictReader(path.read_text().splitlines()))
    eligible = {run["optimizer.lr"] for run in found if run["eligible"] == "true"}
    assert eligible == {run["optimizer.lr"] for run in found if run["chosen"] == "true"} == {"0.1"}
