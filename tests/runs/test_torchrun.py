"""Runs that torchrun has started: a worker that is stopped or hangs is noticed, and they go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from runs.test_resume_workers import KEPT, SMALL, attempt, outcome
from runs.test_several_workers import workers_of
from runtime.test_workers import await_gone, gone

from normbench.runtime import signs

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.slow,
]
WORDS = (*SMALL, "norm=bn", "dropout=0.2", KEPT)
LIMIT_S = 400
# What torchrun starts: the command, but that something befalls a worker after step 17.
STRUCK = """
import os, signal, sys, time
from normbench.cli.main import program
from normbench.runs.keeping import Together
from normbench.runtime import collectives, signs

def befall(rank):
    {strike}

def struck(self, step, call=Together.__call__):
    if step == 17:
        befall(collectives.rank())
    return call(self, step)

Together.__call__ = struck
program()
"""
STRIKES = {
    "worker 1 stopped": "signs.IDLE_S = 16; rank == 1 and os.kill(os.getpid(), signal.SIGSTOP)",
    "worker 0 stopped": "signs.IDLE_S = 16; rank == 0 and os.kill(os.getpid(), signal.SIGSTOP)",
    "worker 1 killed": "rank == 1 and os.kill(os.getpid(), signal.SIGKILL)",
    "all hang": "signs.IDLE_S = 5; time.sleep(10_000)",
    "SIGTERM": "rank == 1 and os.kill(os.getppid(), signal.SIGTERM)",
    "torchrun killed": "rank == 1 and os.kill(os.getppid(), signal.SIGKILL)",
}
ENDS = {
    "worker 1 stopped": ("failed", "rank_lost", "worker 1: gave no sign of life for "),
    "worker 0 stopped": ("running", None, None),  # it could not write: as if killed
    "worker 1 killed": ("failed", "rank_lost", None),
    "all hang": ("failed", "timeout", "gpus=2: hang: none of them has come on for"),
    "SIGTERM": ("interrupted", "sigterm", None),
    "torchrun killed": ("interrupted", "sigterm", None),
}


@contextmanager
def torchrun(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start two workers; whoever is left at the end of the block is killed."""
    starter = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    process = subprocess.Popen(
        [sys.executable, *starter, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=os.setsid,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def follow(process: subprocess.Popen[bytes]) -> None:
    """Wait for torchrun to end; once a worker has gone, those that are stopped are killed.

    Torchrun does that as well, after half a minute.
    """
    until = time.monotonic() + LIMIT_S
    pids: set[int] = set()
    while time.monotonic() < until and process.poll() is None:
        with suppress(FileNotFoundError):
            pids.update(workers_of(process.pid))
        if any(map(gone, pids)):
            for pid in filter(stopped, pids):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    assert process.poll() is not None, "the loss was not noticed"
    await_gone(*pids)


def stopped(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


@pytest.mark.parametrize("strike", STRIKES)
def test_a_loss_is_noticed_and_the_run_goes_on_to_the_same_bits(
    strike: str, tmp_path: Path
) -> None:
    script, cut = tmp_path / "struck.py", tmp_path / "cut"
    script.write_text(STRUCK.format(strike=STRIKES[strike]))
    words = ("train", *WORDS, f"outputs='{cut}'")
    with torchrun(str(script), *words) as process:
        follow(process)
    status, _ = outcome(cut)
    state, reason, message = ENDS[strike]
    assert (status["state"], status["reason"]) == (state, reason)
    assert message is None or status["message"].startswith(message)
    if strike == "worker 1 stopped":
        with torchrun("-m", "normbench", *words) as process:
            assert process.wait(LIMIT_S) == 0
    else:  # by which it comes to the same bits
        assert attempt(cut, *WORDS) == 0
    assert attempt(tmp_path / "whole", *WORDS) == 0
    (first, rows), (second, whole) = outcome(cut), outcome(tmp_path / "whole")
    assert rows == whole
    assert first["state_sha256"] == second["state_sha256"]
    assert 14 <= first["resumed_at"][0] < 40


def test_a_worker_that_is_silent_for_a_while_is_not_lost(tmp_path: Path) -> None:
    goes_on = f"sleep {signs.SILENCE_S + 3}; kill -CONT $PPID"
    silent = (
        f"rank == 1 and (subprocess.Popen(['sh', '-c', '{goes_on}']), os.kill(os.getpid(), 19))"
    )
    script, paused = tmp_path / "struck.py", tmp_path / "paused"
    script.write_text("import subprocess" + STRUCK.format(strike=f"signs.IDLE_S = 300; {silent}"))
    with torchrun(str(script), "train", *WORDS, f"outputs='{paused}'") as process:
        assert process.wait(LIMIT_S) == 0
    assert attempt(tmp_path / "whole", *WORDS) == 0
    assert outcome(paused)[1] == outcome(tmp_path / "whole")[1]
