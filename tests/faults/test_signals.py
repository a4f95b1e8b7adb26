"""Rows 8 to 10, 37 and 53: signals, closed terminals, surroundings, clocks; the bits stay."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import document, normbench, started
from faults.test_process_death import until

from normbench.runs import checkpoint
from normbench.runs.reader import METRICS, STATUS

RUN = (
    *("data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "device=cpu"),
    *("batch=2", "steps=4000", "eval_every=1", "checkpoint_every=300", "tb=false"),
)
WAIT_S = 240


def bits(place: Path) -> tuple[bytes, str]:
    (folder,) = place.glob("outputs/runs/*/seed0")
    status = json.loads((folder / STATUS).read_text())
    assert status["state"] == "finished"
    return (folder / METRICS).read_bytes(), status["state_sha256"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str]:
    place = tmp_path_factory.mktemp("whole")
    assert normbench("train", *RUN, cwd=place).returncode == 0
    return bits(place)


def kept(place: Path) -> bool:
    return bool(list(place.glob(f"outputs/runs/*/*/{checkpoint.NAME}")))


def goes_on(place: Path, whole: tuple[bytes, str], state: str) -> None:
    """See in which state a stopped run is, whole, and that it goes on to the same bits."""
    (told,) = document("status", cwd=place)["runs"]
    assert told["state"] == state
    assert document("verify", cwd=place)["damaged"] == []
    assert normbench("train", *RUN, cwd=place).returncode == 0
    assert bits(place) == whole


def test_row_8_a_second_interrupt_ends_at_once_and_the_checkpoint_is_whole(
    whole: tuple[bytes, str], tmp_path: Path
) -> None:
    process = started("train", *RUN, cwd=tmp_path)
    until(lambda: kept(tmp_path))
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_S) == 130
    goes_on(tmp_path, whole, "interrupted")


def test_row_9_a_closed_terminal_stops_a_run_as_sigterm_does(
    whole: tuple[bytes, str], tmp_path: Path
) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        command = [sys.executable, "-m", "normbench", "train", *RUN]
        os.execv(sys.executable, command)
    until(lambda: kept(tmp_path))
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143
    assert not list(tmp_path.rglob("error.txt"))
    goes_on(tmp_path, whole, "interrupted")


def test_row_9_nohup_goes_on_without_the_terminal(whole: tuple[bytes, str], tmp_path: Path) -> None:
    process = started("train", *RUN, cwd=tmp_path, ignored=(signal.SIGHUP,))
    until(lambda: kept(tmp_path))
    process.send_signal(signal.SIGHUP)
    assert process.wait(WAIT_S) == 0
    assert bits(tmp_path) == whole


def test_row_9_a_closed_terminal_stops_a_sweep_and_its_children(tmp_path: Path) -> None:
    words = (*RUN, "seeds=2", "jobs=2", "steps=2000000")
    words = tuple(word for word in words if word != "steps=4000")
    process = started("train", "-m", *words, cwd=tmp_path, session=True)
    until(lambda: len(list(tmp_path.glob(f"outputs/runs/*/*/{checkpoint.NAME}"))) == 2)
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(WAIT_S) == 143
    told = document("status", cwd=tmp_path)
    assert told["counts"] == {"interrupted": 2}
    assert document("verify", cwd=tmp_path)["damaged"] == []


def test_row_10_a_stopped_process_goes_on(whole: tuple[bytes, str], tmp_path: Path) -> None:
    process = started("train", *RUN, cwd=tmp_path, session=True)
    until(lambda: kept(tmp_path))
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(1.5)  # it is the pause that is tested, not how long it is
    assert process.poll() is None
    assert document("status", cwd=tmp_path)["counts"] == {"running": 1}
    os.killpg(process.pid, signal.SIGCONT)
    assert process.wait(WAIT_S) == 0
    assert bits(tmp_path) == whole


def test_row_37_and_57_other_surroundings_and_the_same_bits(
    whole: tuple[bytes, str], tmp_path: Path
) -> None:
    place = tmp_path / "a folder, with blanks [and] ünïcode"
    place.mkdir()
    env = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
    odd = {"PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Pacific/Auckland", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-O", "-m", "normbench", "train", *RUN]
    done = subprocess.run(command, cwd=place, env={**env, **odd}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert bits(place) == whole


JUMPS = """
import time, sys
real, calls = time.time, iter(range(10**9))
time.time = lambda: real() + (86400.0, -86400.0, 0.0)[next(calls) % 3]
from normbench.cli.main import program
program()
"""


def test_row_53_a_clock_that_jumps_changes_no_bit_and_no_duration(
    whole: tuple[bytes, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", JUMPS, "train", *RUN]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert bits(tmp_path) == whole
    (path,) = tmp_path.glob("outputs/runs/*/seed0/timing.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    seconds = [row["wall_s"] for row in rows]
    assert seconds == sorted(seconds) and seconds[0] >= 0
    assert all(row["train_s"] >= 0 for row in rows if "train_s" in row)
