"""Rows 36, 55 and 56: memory, open files, processes that run out; a package that is missing."""

from __future__ import annotations

import errno
import os
import re
import resource
import sys
from pathlib import Path

import pytest
from commands import document, normbench

from normbench.cli.main import main
from normbench.errors import MachineError
from normbench.runtime import processes, storage

TINY = ("data=synthetic", "device=cpu", "steps=3", "tb=false")
SMALL = (*TINY, "data.shape=[1,8,8]", "model=mlp", "model.width=8")
LARGE = (*TINY, "data.shape=[1,32,32]", "model=cnn")
MEMORY = {"RLIMIT_AS": 300 << 20}  # beyond that of a process that has loaded torch


def test_row_36_a_run_without_memory_names_a_smaller_batch(tmp_path: Path) -> None:
    done = normbench("train", *LARGE, "batch=2000", cwd=tmp_path, limits=MEMORY)
    assert done.returncode == 4
    first, fix = done.stderr.splitlines()[-2:]
    assert first.startswith("normbench: error: batch=2000: memory ran out")
    assert fix == "  try: batch=1000"
    (told,) = document("status", cwd=tmp_path)["runs"]
    assert (told["state"], told["reason"]) == ("failed", "oom")


def test_row_36_the_other_runs_of_a_sweep_are_trained(tmp_path: Path) -> None:
    words = ("train", "-m", *LARGE, "batch=2,2000", "jobs=1")
    assert normbench(*words, cwd=tmp_path, limits=MEMORY).returncode == 1
    assert document("status", cwd=tmp_path)["counts"] == {"failed": 1, "finished": 1}


def test_row_55_a_sweep_and_workers_do_with_64_open_files(tmp_path: Path) -> None:
    for words in (("-m", "norm=bn,gn", "jobs=2"), ("gpus=2", "batch=16")):
        done = normbench("train", *SMALL, *words, cwd=tmp_path, limits={"RLIMIT_NOFILE": 64})
        assert done.returncode == 0, done.stderr


def test_row_55_too_few_open_files_or_processes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # no more than the streams
    try:
        with pytest.raises(MachineError, match="too many open files") as few:
            storage.write_atomic(tmp_path / "a", "text")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert re.search(r"try: ulimit -n (unlimited|\d+)    \(it is 3\)", str(few.value))

    def refused() -> int:  # the limit itself does not hold for root
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refused)
    with pytest.raises(MachineError, match="no more can be started") as none:
        processes.fork(lambda channel: 0, [], dies_by=15)  # type: ignore[arg-type]
    assert "try: ulimit -u " in str(none.value)


def test_row_56_a_missing_torchvision_is_named_and_other_models_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "normbench.models.torchvision", raising=False)
    words = ["train", *TINY, "dry_run=true", "--outputs", str(tmp_path / "o")]
    assert main([*words, "model=torchvision", "data.shape=[3,64,64]"]) == 4
    error, fix = capsys.readouterr().err.splitlines()
    assert error.startswith(
        "normbench: error: model=torchvision: the package torchvision cannot be"
    )
    assert fix == "  try: pip install torchvision"
    assert main([*words, "model=mlp"]) == 0
    assert not (tmp_path / "o").exists()
