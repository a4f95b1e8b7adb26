"""What the table of a sweep compares, as the settings `compare` and `baseline` say."""

from __future__ import annotations

import csv
import json
import shlex
from importlib.metadata import version
from pathlib import Path

import pytest
from commands import document, normbench

TINY = ["data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "device=cpu"]
SHORT = ["train", "-m", *TINY, "steps=3", "tb=false"]


@pytest.mark.parametrize(
    ("words", "why", "fix"),
    [
        (
            "norm=none,bn batch=2,8 compare=init",
            "compare=init: is not swept by this command, which sweeps norm, batch",
            "compare=norm",
        ),
        (
            "seeds=2 compare=norm",
            "compare=norm: is not swept by this command, which sweeps nothing",
            "compare=null",
        ),
        (
            "norm=none,bn baseline=gn",
            "baseline=gn: is not a value of norm here: none, bn",
            "baseline=none",
        ),
        (
            "norm=none,bn batch=8,32 compare=batch baseline=2",
            "baseline=2: is not a value of batch here: 8, 32",
            "baseline=8",
        ),
        ("seeds=2 baseline=bn", "baseline=bn: nothing is swept", "baseline=null"),
    ],
)
def test_what_is_not_swept_cannot_be_compared(
    words: str, why: str, fix: str, tmp_path: Path
) -> None:
    done = normbench(*SHORT, *words.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"normbench: error: {why}\n  try: {fix}\n"
    assert not [*tmp_path.iterdir()]


def test_the_compared_key_and_the_baseline_are_those_asked_for(tmp_path: Path) -> None:
    words = ["norm=none,bn", "batch=8,32", "compare=batch", "baseline=32"]
    found = document(*SHORT, *words, cwd=tmp_path)["comparison"]
    assert (found["by"], found["baseline"]) == ("batch", "32")
    assert [block["at"] for block in found["blocks"]] == [{"norm": "none"}, {"norm": "bn"}]


def test_another_order_of_the_words_is_the_same_table(tmp_path: Path) -> None:
    """Nor where its runs are done in two halves, and the second of them first."""

    def table() -> str:
        (path,) = tmp_path.glob("outputs/sweeps/norm-batch-*/table.md")
        head, _, text = path.read_text().partition("\ntest accuracy")
        assert head.startswith("# norm-batch-")
        return text

    normbench(*SHORT, "norm=bn", "batch=32", "seed=1", cwd=tmp_path)
    first = normbench(*SHORT, "norm=none,bn", "batch=8,32", "seeds=3", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    written = table()
    second = normbench(*SHORT, "seeds=3", "batch=8,32", "norm=none,bn", cwd=tmp_path)
    assert first.stdout == second.stdout
    assert written == table()


def test_the_files_of_a_sweep_say_what_its_numbers_hang_on(tmp_path: Path) -> None:
    words = [*SHORT[2:], "norm=none,bn", "batch=8,32", "seeds=3"]
    normbench("train", "-m", *words, cwd=tmp_path)
    (folder,) = tmp_path.glob("outputs/sweeps/*")
    told = json.loads((folder / "sweep.json").read_text())
    assert told["command"] == f"normbench train -m {shlex.join(words)}"
    assert [entry["train"] for entry in told["data"]] == [2000]
    assert told["budget"] == [{"steps": 3, "examples": 24}, {"steps": 3, "examples": 96}]
    assert told["learning_rate"]["values"] == [0.03 * 8 / 64, 0.03 * 32 / 64]
    assert told["versions"][0]["torch"] == version("torch")
    assert [cell["settings"]["seed"] for cell in told["cells"][:4]] == ["0", "1", "2", "0"]
    head = (folder / "table.md").read_text().partition("\ntest accuracy")[0]
    assert f"    {told['command']}\n" in head
    assert "- budget: 3 steps, 24 to 96 examples\n" in head
    rows = [*csv.DictReader((folder / "results.csv").read_text().splitlines())]
    assert [row["norm"] for row in rows] == ["none"] * 6 + ["bn"] * 6
    assert [(row["steps"], row["examples"]) for row in rows[2:4]] == [("3", "24"), ("3", "96")]
    assert {row["parameters"] for row in rows[:6]} == {"754"}
