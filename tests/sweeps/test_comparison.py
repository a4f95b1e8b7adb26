"""What the table of a sweep compares, as the settings `compare` and `baseline` say."""

from __future__ import annotations

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
    first = normbench(*SHORT, "norm=none,bn", "batch=8,32", "seeds=3", cwd=tmp_path)
    second = normbench(*SHORT, "seeds=3", "batch=8,32", "norm=none,bn", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    one, other = tmp_path.rglob("table.md")
    assert one.read_bytes() == other.read_bytes()
