"""`seeds=auto`: rounds of seeds until each pair of a sweep is decided."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import document, normbench

TINY = ["data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=16", "device=cpu"]
SHORT = ["train", *TINY, "tb=false", "diagnose=off", "eval_every=100"]
APART = ["-m", "steps=60", "optimizer.lr=0.03,1", "seeds=auto", "seeds_max=10"]


def test_seeds_are_added_until_a_pair_is_decided_and_the_same_command_goes_on(
    tmp_path: Path,
) -> None:
    plan = normbench(*SHORT, *APART, "dry_run=true", cwd=tmp_path).stdout
    assert plan.startswith("plan: 8 runs, 8 to train; at most 12 runs more until each pair")
    begun = normbench(*SHORT, *APART[:3], "seeds=2", cwd=tmp_path)
    assert begun.returncode == 0
    done = normbench(*SHORT, *APART, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "better at 5 seeds" in done.stdout and "confidence sequence" in done.stdout
    assert "*" not in done.stdout  # the star is of a test on seeds that were fixed before
    runs = [*(tmp_path / "outputs/runs").glob("*/seed*")]
    assert len(runs) == 10
    (folder,) = [
        path.parent
        for path in (tmp_path / "outputs/sweeps").glob("*/table.md")
        if "seeds=auto" in path.read_text()
    ]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = normbench(*SHORT, *APART, cwd=tmp_path)
    assert again.stdout == done.stdout
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (block,) = document(*SHORT, *APART, cwd=tmp_path)["comparison"]["blocks"]
    found = block["arms"][1]["above_baseline"]
    assert (found["verdict"], found["seeds"], found["n"]) == ("better", 5, 5)
    low, high = found["confidence_sequence"]
    assert 0 < low < found["mean"] < high <= 1
    said = normbench("compare", str(folder), cwd=tmp_path).stdout
    assert normbench("report", str(folder), "-o", "page.md", cwd=tmp_path).returncode == 0
    for text in (said, (tmp_path / "page.md").read_text()):
        assert "seeds=auto stopped where the runs told it to" in " ".join(text.split())


def test_arms_that_fail_too_often_are_not_compared(tmp_path: Path) -> None:
    words = ["-m", "steps=1", "norm=none,bn", "optimizer.lr=1e-9", "seeds=auto", "seeds_max=8"]
    done = normbench(*SHORT, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fails too often to compare at 6 seeds: " in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "why", "fix"),
    [
        ("norm=bn seeds=auto", "seeds=auto: decides a comparison, and nothing is", "seeds=5"),
        ("-m norm=bn seeds=auto", "seeds=auto: decides a comparison, and nothing is", "seeds=5"),
        ("-m norm=none,bn seeds=auto,3", "seeds=auto: holds for all cells", "seeds=5"),
        ("-m norm=none,bn seed=0,7 seeds=auto", "seeds=auto: holds for all cells", "seeds=5"),
        ("-m norm=none,bn seeds=auto seeds_max=3", "seeds_max=3: must be in 4", "seeds_max=4"),
        ("-m norm=none,bn seeds=auto hydra/launcher=basic", "seeds=auto: is for norm", "seeds=5"),
    ],
)
def test_what_it_cannot_decide_is_refused(words: str, why: str, fix: str, tmp_path: Path) -> None:
    done = normbench(*SHORT, *words.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"normbench: error: {why}")
    assert done.stderr.endswith(f"\n  try: {fix}\n") and done.stderr.count("error") == 1
    assert not [*tmp_path.iterdir()]


def test_a_largest_number_of_seeds_without_auto_is_warned_of(tmp_path: Path) -> None:
    words = ["norm=bn", "seeds=2", "seeds_max=9", "dry_run=true"]
    done = normbench(*SHORT, *words, cwd=tmp_path)
    assert "seeds_max=9: has no effect with seeds=2" in done.stderr
