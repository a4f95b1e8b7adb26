"""`normbench power`: what seeds resolve, and what differences take."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import document, normbench
from scipy.stats import nct, t

TINY = ["data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=32", "device=cpu"]
SHORT = [*TINY, "epochs=2", "optimizer.lr=0.3", "tb=false"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("power")
    done = normbench("train", "-m", *SHORT, "norm=bn,gn", "batch=32", "seeds=5", cwd=place)
    assert done.returncode == 0, done.stderr
    return place


def power(difference: float, sd: float, n: int) -> float:
    shift = difference * math.sqrt(n) / sd
    return float(nct.sf(t.ppf(0.975, n - 1), n - 1, shift))


def test_of_a_given_spread(tmp_path: Path) -> None:
    found = document(
        "power", "--sd", "0.6", "--difference", "0.5,1", "--seeds", "6,9", cwd=tmp_path
    )
    (pair,) = found["pairs"]
    for n in (6, 9):
        assert power(pair["resolvable"][str(n)], 0.006, n) == pytest.approx(0.8, abs=1e-6)
    half, one = pair["seeds_for"]
    assert power(half["difference"], 0.006, half["seeds"]) >= 0.8
    assert power(half["difference"], 0.006, half["seeds"] - 1) < 0.8
    assert one["seeds"] == 6  # which the sign-flip test needs
    text = normbench("power", "--sd", "0.6", "--difference", "0.5", cwd=tmp_path).stdout
    assert text.splitlines()[0].split() == [
        *("test", "accuracy,", "points", "sd", "of"),
        *("6", "seeds", "8", "seeds", "12", "seeds", "20", "seeds", "for", "0.5"),
    ]


def test_of_recorded_runs_with_their_cost(place: Path) -> None:
    found = document("power", "--baseline", "bn", cwd=place)
    (pair,) = found["pairs"]

    def read(norm: str, name: str) -> list[list[dict[str, float]]]:
        paths = sorted(place.glob(f"outputs/runs/mlp-width*-{norm}-*/seed*/{name}"))
        return [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]

    ends = {norm: read(norm, "metrics.jsonl") for norm in ("bn", "gn")}
    values = {
        norm: np.array(
            [
                next(row["test/accuracy"] for row in rows if row["kind"] == "test")  # type: ignore[comparison-overlap]
                for rows in runs
            ]
        )
        for norm, runs in ends.items()
    }
    assert (pair["pair"], pair["n"]) == ("gn - bn", 5)
    assert pair["sd"] == pytest.approx((values["gn"] - values["bn"]).std(ddof=1))
    paths = {
        norm: place.glob(f"outputs/runs/mlp-width*-{norm}-*/seed*/status.json") for norm in values
    }
    cpu = [
        np.mean([json.loads(path.read_text())["cpu_s"] for path in each]) for each in paths.values()
    ]
    last = [rows[-1]["cpu_s"] for norm in values for rows in read(norm, "timing.jsonl")]
    assert pair["core_seconds_per_seed"] == pytest.approx(sum(cpu))
    assert sum(cpu) >= 2 * min(last)
    assert "core-s" in normbench("power", cwd=place).stdout


@pytest.mark.parametrize(
    ("words", "why", "fix"),
    [
        ("--sd 0", "--sd 0: is not a number above 0", "--sd 0.6"),
        (
            "--sd 1 norm=bn",
            "--sd 1: is given in place of runs, and runs are named too",
            "normbench power --sd 1",
        ),
        (
            "--sd 1 --difference x",
            "--difference x: x is not a number above 0",
            "--difference 0.5,1",
        ),
        (
            "--sd 1 --seeds 1.5",
            "--seeds 1.5: 1.5 is not a whole number from 2 to 999,999",
            "--seeds 6,12",
        ),
        (
            "seed=0,1",
            "power: no pair of arms has 3 seeds with which both train and differ",
            "normbench train -m norm=bn,gn seeds=6",
        ),
    ],
)
def test_what_tells_nothing_is_refused(words: str, why: str, fix: str, place: Path) -> None:
    done = normbench("power", *words.split(), cwd=place)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"normbench: error: {why}\n  try: {fix}\n"


def test_a_page_of_docs_is_made_by_its_commands(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts/docs"
    page = tmp_path / "page.md"
    page.write_text(
        "# Power\n\n```console\n$ normbench power --sd 1\nold\n```\n\n    $ normbench x\n"
    )

    def made(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), str(page), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    told = made("--check")
    assert told.returncode == 1 and "-old" in told.stdout
    assert made().returncode == 0
    printed = normbench("power", "--sd", "1", cwd=tmp_path).stdout
    assert page.read_text() == (
        f"# Power\n\n```console\n$ normbench power --sd 1\n{printed}```\n\n    $ normbench x\n"
    )
    assert made("--check").returncode == 0
