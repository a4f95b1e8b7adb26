"""Sweeps that submitit starts, by its local executor: the same runs as our own launcher's."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = "hydra_plugins.hydra_submitit_launcher"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec(PLUGIN) is None, reason="the extra submitit is not installed"
    ),
]
TINY = ("data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "model.depth=2")
SMALL = (*TINY, "batch=32", "steps=12", "device=cpu", "tb=false")
LOCAL = "hydra/launcher=submitit_local"


def train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "normbench", "train", "-m", *SMALL, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    logs = [each.read_text() for each in folder.glob("outputs/.submitit/*/*.err")]
    assert done.returncode in (0, 1), (done.stderr, logs)
    return done


def records(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each run of a folder was recorded, and its rows."""
    files = folder.glob("outputs/runs/*/seed0/metrics.jsonl")
    return {each.parts[-3]: (each.stat().st_mtime_ns, each.read_bytes()) for each in files}


@pytest.fixture(scope="module")
def submitted(tmp_path_factory):
    """A folder with two runs that submitit has trained, and what the command printed."""
    folder = tmp_path_factory.mktemp("submitted")
    done = train(folder, LOCAL, "norm=bn,gn", "gpus=1")
    assert done.returncode == 0
    return folder, done.stdout


def test_submitit_trains_the_runs_and_the_command_prints_their_table(submitted):
    folder, printed = submitted
    assert sorted(({"bn", "gn"} & {*name.split("-")}).pop() for name in records(folder)) == [
        "bn",
        "gn",
    ]
    assert [line.split()[0] for line in printed.splitlines()[1:3]] == ["bn", "gn"]


def test_the_plain_command_finds_the_runs_of_submitit(submitted):
    folder, printed = submitted
    before = records(folder)
    again = train(folder, "norm=bn,gn", "gpus=1")
    assert printed.splitlines()[1:3] == [
        line for line in again.stdout.splitlines() if line.split()[:1] in (["bn"], ["gn"])
    ]
    assert records(folder) == before


def test_a_run_of_submitit_has_the_rows_of_a_plain_one(submitted, tmp_path):
    folder, _ = submitted
    train(tmp_path, "norm=bn,gn", "gpus=1")
    rows = [
        {name: each[1] for name, each in records(place).items()} for place in (folder, tmp_path)
    ]
    assert rows[0] == rows[1]


def test_a_job_of_submitit_may_have_several_workers(tmp_path):
    assert train(tmp_path, LOCAL, "norm=syncbn", "gpus=2").returncode == 0
    (name,) = records(tmp_path)
    assert "syncbn" in name


def test_a_failed_job_of_submitit_fails_the_command(tmp_path):
    done = train(tmp_path, LOCAL, "norm=bn", "optimizer.lr=1e9", "on_nan=fail")
    assert done.returncode == 1
    assert "failed" in done.stdout


@pytest.mark.skipif(shutil.which("srun") is not None, reason="Slurm is here")
def test_a_machine_without_slurm_is_told_so(tmp_path):
    words = ["-m", *SMALL, "hydra/launcher=submitit_slurm", "norm=bn,gn", "gpus=1"]
    done = subprocess.run(
        [sys.executable, "-m", "normbench", "train", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    first, second = done.stderr.splitlines()
    assert first.startswith("normbench: error: hydra/launcher=submitit_slurm: ")
    assert second == "  try: hydra/launcher=normbench"
