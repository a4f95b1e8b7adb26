"""Two command lines whose trainings are equal never train twice, whatever else they say."""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from commands import normbench
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from normbench import config

SMALL = ("data=synthetic", "data.shape=[1,8,8]", "data.train_size=320", "model=mlp", "device=cpu")
USUAL = ("placement=pre", "optimizer.momentum=0.9", "dropout=0", "activation=relu", "order=iid")

trainings = st.fixed_dictionaries(
    {
        "norm": st.sampled_from(["bn", "gn", "wn"]),
        "batch": st.sampled_from([16, 32]),
        "steps": st.sampled_from([4, 10]),
        "optimizer.lr": st.sampled_from([0.01, 0.1]),
        "lr_rule": st.sampled_from(["none", "linear"]),
        "seed": st.sampled_from([0, 1]),
    }
)


@st.composite
def said(draw: st.DrawFn, training: dict[str, Any]) -> list[str]:
    """A command line for a training: its length in one of three ways, and words without effect."""
    batch, steps = training["batch"], training["steps"]
    length = [f"steps={steps}", f"examples={steps * batch}", f"epochs={steps / (320 // batch)}"]
    words = [f"{key}={value}" for key, value in training.items() if key != "steps"]
    words += [draw(st.sampled_from(length)), *draw(st.sets(st.sampled_from(USUAL)))]
    words += draw(st.lists(st.sampled_from(JUDGING), unique_by=_key, max_size=3))
    words += draw(st.lists(st.sampled_from(RECORDING), unique_by=_key, max_size=3))
    if training["lr_rule"] == "none":
        words += draw(st.sampled_from([[], ["lr_base_batch=8"]]))
    if steps <= 320 // batch:
        words += draw(st.sampled_from([[], ["reshuffle=false"]]))
    return draw(st.permutations([*SMALL, "model.width=8", *words]))


JUDGING = (
    *("eval_stats=batch", "eval_stats=dataset", "shifts=[invert]", "train_acc=true"),
    "shifts=[noise+0.1,contrast*0.5]",
)
RECORDING = (
    *("log_every=3", "eval_every=0.2", "eval_every=5", "diagnose=off", "diagnose=full"),
    *("tb=false", "jobs=1", "capture=off"),
)


def _key(word: str) -> str:
    return word.partition("=")[0]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[bool, list[str], list[str]]:
    """Two command lines, and whether they train the same."""
    one = draw(trainings)
    other = draw(st.one_of(st.just(one), trainings))
    return one == other, draw(said(one)), draw(said(other))


@pytest.mark.parametrize("examples", [8, pytest.param(80, marks=pytest.mark.slow)])
def test_equal_trainings_and_no_others_have_one_folder(examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(pairs())
    def check(pair: tuple[bool, list[str], list[str]]) -> None:
        equal, one, other = pair
        assert (config(*one).directory == config(*other).directory) == equal

    check()


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(pairs())
def test_equal_trainings_are_trained_once(pair: tuple[bool, list[str], list[str]]) -> None:
    equal, *lines = pair
    with tempfile.TemporaryDirectory() as folder:
        for words in lines:
            done = normbench("train", *words, cwd=Path(folder))
            assert done.returncode == 0, done.stderr
        statuses = [
            json.loads(path.read_text())
            for path in Path(folder).glob("outputs/runs/*/seed*/status.json")
        ]
        assert [status["attempts"] for status in statuses] == [1] * (1 if equal else 2)
        assert len({status["state_sha256"] for status in statuses}) == len(statuses)


def test_a_run_under_a_name_of_before_is_refused(tmp_path: Path) -> None:
    words = [*SMALL, "model.width=8", "steps=4", "tb=false", f"outputs={tmp_path}"]
    today = config(*words).directory.parent
    former = today.with_name(f"mlp-bn-b64-{today.name[-12:]}")
    assert normbench("train", *words, cwd=tmp_path).returncode == 0
    today.rename(former)
    done = normbench("train", *words, cwd=tmp_path)
    assert done.returncode == 3
    error, fix = done.stderr.splitlines()
    assert error.endswith(f"an earlier normbench named so; today it is {today.name}")
    assert normbench("train", *words, "seed=1", "dry_run=true", cwd=tmp_path).returncode == 0
    subprocess.run(shlex.split(fix.removeprefix("  try: ")), check=True)
    assert normbench("train", *words, cwd=tmp_path).returncode == 0
    assert json.loads((today / "seed0/status.json").read_text())["attempts"] == 1
