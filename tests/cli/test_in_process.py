"""`main` called from Python: twice, from a thread, and what it leaves of the process."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

import pytest
from hydra import compose, initialize
from hydra.core.global_hydra import GlobalHydra

from normbench.cli.main import main
from normbench.runs import run as runs

TINY = ["data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "steps=2", "tb=false"]
WORDS = ["train", *TINY, "device=cpu", "--json"]


def state() -> tuple[object, ...]:
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    return list(sys.argv), handlers, dict(os.environ), logging.raiseExceptions, os.getcwd()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "words", [WORDS, [*WORDS, "-m", "norm=bn,gn"], ["train", "norm=gm"], ["train", "--cfg", "job"]]
)
def test_a_command_leaves_the_process_as_it_was(words: list[str]) -> None:
    before = state()
    main(words)
    assert state() == before


def test_a_command_can_be_called_twice(capsys: pytest.CaptureFixture[str]) -> None:
    for norm in ("bn", "gn"):
        assert main([*WORDS, f"norm={norm}"]) == 0
        (run,) = json.loads(capsys.readouterr().out)["runs"]
        assert run["config"]["norm"]["name"] == norm


def test_a_command_after_a_failed_one_is_not_failed(capsys: pytest.CaptureFixture[str]) -> None:
    diverging = ["on_nan=fail", "optimizer.lr=1e20", "warmup=0", "norm=none", "steps=60"]
    words = [word for word in WORDS if word != "steps=2"]
    assert main([*words, *diverging]) == 1
    assert main(WORDS) == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12 and later
@pytest.mark.parametrize("sweep", [[], ["-m", "norm=bn,gn"]])
def test_a_command_works_in_a_thread(sweep: list[str]) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main([*WORDS, *sweep])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_program_that_uses_hydra_itself_keeps_its_hydra() -> None:
    with initialize(version_base="1.3", config_path=None):
        own = GlobalHydra.instance().hydra
        assert main(WORDS) == 0
        assert GlobalHydra.instance().hydra is own
        assert compose(overrides=["+a=1"]) == {"a": 1}


def test_three_frames_lie_between_the_command_and_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[str] = []

    def run(*_: object) -> str:
        stack = [each for each in traceback.extract_stack() if "/normbench/" in each.filename]
        frames.extend(each.name for each in stack)
        return "finished"

    monkeypatch.setattr(runs, "run", run)
    main(WORDS)
    assert frames == ["main", "run", "task"]
