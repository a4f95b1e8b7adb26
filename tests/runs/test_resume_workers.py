"""A run of several workers that is kept goes on to the same bits, whatever each has of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from engine.test_train import config

from normbench.cli.main import main
from normbench.parts import registry
from normbench.rows import Halt, Row, to_json
from normbench.runs import keeping
from normbench.runs.job import Job
from normbench.runs.keeping import Together
from normbench.runs.reader import read_status
from normbench.runs.state import from_first
from normbench.runtime import collectives, workers
from normbench.settings.schema import Config

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only"),
    pytest.mark.slow,
]
BRIEF = ("data.train_size=128", "batch=32", "log_every=3", "eval_every=0.5", "steps=7", "gpus=2")


def finished(job: Job) -> list[Any]:
    """Train a job to its end: its rows, and the digest of its state."""
    rows = [to_json(row) for row in job.rows() if isinstance(row, Row)]
    return [rows, job.state_sha256()]


def cut(chosen: Config, after: int) -> list[Any]:
    """Train, halt on all workers after so many chances, and go on in fresh jobs."""
    chances: Iterator[int] = iter(range(10**6))
    first, rows = Job(chosen), []
    first.at.halts = lambda step: next(chances) == after
    for row in first.rows():
        if isinstance(row, Halt):
            break
        rows.append(to_json(row))
    state = first.state(row)
    second = Job(chosen)
    state = from_first(None if collectives.rank() else state)
    assert state is not None
    second.load(*state)
    more, digest = finished(second)
    return [[*rows, *more], digest]


def check(*settings: Sequence[str], after: int = 3) -> None:
    """Cut and go on, in one group of workers for all settings, to the bits of the whole runs."""
    chosen = []
    for words in settings:
        given = {word.partition("=")[0] for word in words}
        chosen.append(config(*(w for w in BRIEF if w.partition("=")[0] not in given), *words))

    def work(send: workers.Send) -> None:
        for each in chosen:
            send({"cut": cut(each, after), "whole": finished(Job(each))})

    count = 0
    for words, told in zip(settings, workers.together(2, "cpu", work), strict=True):
        assert told["cut"] == told["whole"], words
        assert len(told["whole"][0]) > 5
        count += 1
    assert count == len(settings)


def test_every_norm_goes_on() -> None:
    place = dict.fromkeys(("bin", "in"), ["model=cnn", "data.shape=[3,8,8]"])
    place["dbn"] = ["batch=64"]  # as many values as channels, and more
    check(
        *([f"norm={name}", "dropout=0.2", *place.get(name, [])] for name in registry.names("norm"))
    )


CASES = {
    "statistics of all": ("norm=bn", "norm_batch=global"),
    "micro-batches": ("norm=cbn", "norm.burnin=2", "norm.burnin_share=null", "accumulate=2"),
    "windows": ("norm=cmbn", "model=cnn", "data.shape=[3,8,8]", "accumulate=2"),
    "augmentation": ("model=cnn", "data.shape=[3,8,8]", "augment=crop+flip", "norm=bn"),
    "recurrent": ("model=lstm", "norm=bn", "blank_steps=2", "dropout=0.2"),
    "recorded steps": ("norm=mabn", "capture=on"),
    "evaluation by other statistics": ("norm=bn", "eval_stats=dataset"),
}


def test_a_run_goes_on() -> None:
    check(*CASES.values())


def test_a_run_goes_on_after_pretraining() -> None:
    check(("init=autoencoder", "init.steps=2", "model.depth=2", "norm=bn"), after=6)


def attempt(folder: Path, *words: str, strike: Callable[[int], None] | None = None) -> int:
    """Run a command in a process of its own, and return its exit code.

    Args: strike: is called in worker 1 after each step, with its number.
    """
    call = Together.__call__

    def struck(self: Together, step: int) -> bool:
        if strike and collectives.rank() == 1:
            strike(step)
        return call(self, step)

    def command() -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Together, "__call__", struck)
            sys.exit(
                main(
                    [
                        "train",
                        *{w.partition("=")[0]: w for w in (*SMALL, *words)}.values(),
                        f"outputs='{folder}'",
                    ]
                )
            )

    process = multiprocessing.get_context("fork").Process(target=command)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def outcome(folder: Path) -> tuple[dict[str, Any], bytes]:
    """What came of the run in a folder: its status and its rows."""
    (path,) = folder.rglob("status.json")
    return read_status(path.parent), (path.parent / "metrics.jsonl").read_bytes()


SMALL = (
    *("data=synthetic", "data.shape=[1,8,8]", "data.train_size=256", "model=mlp", "model.width=8"),
    *("batch=32", "steps=40", "log_every=3", "eval_every=1", "tb=false", "device=cpu", "gpus=2"),
)
KEPT = "checkpoint_every=7"


def kill_worker(step: int) -> None:
    if step == 17:
        os.kill(os.getpid(), signal.SIGKILL)


def to_parent(number: signal.Signals) -> Callable[[int], None]:
    """Make a strike that sends the command a signal after a step."""

    def strike(step: int) -> None:
        if step == 17:
            os.kill(os.getppid(), number)

    return strike


ENDS = {
    "worker killed": (("norm=bn", "dropout=0.2"), kill_worker, 1, "rank_lost"),
    "command killed": (
        ("norm=syncbn", "accumulate=2"),
        to_parent(signal.SIGKILL),
        -signal.SIGKILL,
        None,
    ),
    "SIGINT": (("norm=bn", "accumulate=2"), to_parent(signal.SIGINT), 130, "sigint"),
    "SIGTERM": (("norm=brn", "dropout=0.2"), to_parent(signal.SIGTERM), 143, "sigterm"),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_same_command_goes_on_to_the_same_bits(end: str, tmp_path: Path) -> None:
    words, strike, code, reason = ENDS[end]
    words = (*words, KEPT)
    assert attempt(tmp_path / "cut", *words, strike=strike) == code
    status, _ = outcome(tmp_path / "cut")
    assert status["reason"] == reason
    assert attempt(tmp_path / "cut", *words) == attempt(tmp_path / "whole", *words) == 0
    (first, rows), (second, whole) = outcome(tmp_path / "cut"), outcome(tmp_path / "whole")
    assert rows == whole
    assert (first["state_sha256"], first["final"]) == (second["state_sha256"], second["final"])
    assert 14 <= first["resumed_at"][0] < 40


def test_worker_0_says_when_it_is_time_to_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LEAST_S", "APART"):
        monkeypatch.setattr(keeping, name, 0)  # it always is
    assert attempt(tmp_path / "cut", "norm=bn", strike=kill_worker) == 1
    assert attempt(tmp_path / "cut", "norm=bn") == attempt(tmp_path / "whole", "norm=bn") == 0
    (first, rows), (second, whole) = outcome(tmp_path / "cut"), outcome(tmp_path / "whole")
    assert (rows, first["state_sha256"]) == (whole, second["state_sha256"])
    assert first["resumed_at"] == [16]  # for it halts at every second step


def test_pretraining_goes_on_from_what_worker_0_has(tmp_path: Path) -> None:
    words = ("init=autoencoder", "init.steps=30", "model.depth=2", "norm=bn", KEPT)
    assert attempt(tmp_path / "cut", *words, strike=kill_worker) == 1
    assert attempt(tmp_path / "cut", *words) == attempt(tmp_path / "whole", *words) == 0
    (first, rows), (second, whole) = outcome(tmp_path / "cut"), outcome(tmp_path / "whole")
    assert (rows, first["state_sha256"]) == (whole, second["state_sha256"])
    assert len(first["resumed_at"]) == 1
