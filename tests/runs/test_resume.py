"""A run that is kept and goes on in a fresh object comes to the bits of one that was never cut."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import LIMIT_S, normbench, started, until
from engine.test_train import config

from normbench.parts import registry
from normbench.rows import Halt, Row, to_json
from normbench.runs import checkpoint
from normbench.runs.job import Job
from normbench.settings.schema import Config

BRIEF = ("data.train_size=128", "batch=16", "log_every=3", "eval_every=0.5")


def finished(job: Job) -> tuple[list[str], str]:
    """Train a job to its end: its rows, and the digest of its state."""
    rows = [to_json(row) for row in job.rows() if isinstance(row, Row)]
    return rows, job.state_sha256()


def cut(chosen: Config, after: int, path: Path) -> tuple[list[str], str]:
    """Train, halt at each chance after so many of them, and go on in a fresh job from a file."""
    chances: Iterator[int] = iter(range(10**6))
    first = Job(chosen)
    first.at.halts = lambda step: next(chances) == after
    rows = []
    for row in first.rows():
        if isinstance(row, Halt):
            state = first.state(row)
            assert state is not None
            checkpoint.write(path, *state)
            break
        rows.append(to_json(row))
    else:
        pytest.fail("the run ended before it halted")
    torch.rand(3)  # what happens between two processes
    second = Job(chosen)
    second.load(*checkpoint.read(path))
    more, digest = finished(second)
    return [*rows, *more], digest


def check(*words: str, path: Path, after: int = 4) -> None:
    given = {word.partition("=")[0] for word in words}
    base = [word for word in BRIEF if word.partition("=")[0] not in given]
    settings = (*base, *words, *(() if "steps" in given else ("steps=11",)))
    chosen = config(*settings)
    assert cut(chosen, after, path / checkpoint.NAME) == finished(Job(chosen))


@pytest.mark.parametrize("norm", registry.names("norm"))
def test_every_norm_goes_on(norm: str, tmp_path: Path) -> None:
    place = ["model=cnn", "data.shape=[3,8,8]"] if norm in ("bin", "in") else []
    more = ["batch=32"] if norm == "dbn" else []  # as many values as channels, and more
    check(f"norm={norm}", *place, *more, "dropout=0.2", path=tmp_path)


AUTO = ("init=autoencoder", "init.steps=5", "model.depth=2")
CASES = {
    "before the first step of an epoch": (("norm=bn", "dropout=0.3"), 7),
    "after pre-training": ((*AUTO, "norm=bn"), 11),
    "in the middle of pre-training": ((*AUTO, "norm=bn", "init.tied=false", "init.noise=0.3"), 6),
    "at the first step of pre-training": ((*AUTO, "norm=gn"), 0),
    "at the end of a unit": ((*AUTO, "norm=none"), 4),
    "from data": (("norm=wn", "init=lsuv"), 2),
    "bf16": (("precision=bf16", "norm=bn"), 4),
    "accumulate": (("norm=cbn", "norm.burnin=2", "norm.burnin_share=null", "accumulate=2"), 4),
    "augmentation": (("model=cnn", "data.shape=[3,8,8]", "augment=crop+flip", "norm=bn"), 4),
    "rnn": (("model=rnn", "norm=bn", "blank_steps=2"), 4),
    "lstm": (("model=lstm", "norm=ln", "dropout=0.2"), 4),
    "recorded steps": (("norm=mabn", "capture=on"), 6),
    "full diagnosis": (("norm=bn", "diagnose=full", "eval_stats=dataset"), 4),
    "target": (("norm=bn", "target=0.05"), 3),
    "small batches": (("norm=brn", "batch=2", "steps=70", "log_every=50", "eval_every=1"), 66),
    "dirichlet": (("norm=bn", "order=dirichlet", "reshuffle=false"), 4),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on(case: str, tmp_path: Path) -> None:
    words, after = CASES[case]
    check(*words, path=tmp_path, after=after)


@pytest.mark.parametrize("stats", ["running", "batch", "dataset"])
def test_a_run_stopped_within_a_validation_goes_on(stats: str, tmp_path: Path) -> None:
    chosen = config(*BRIEF, "steps=11", "norm=bn", f"eval_stats={stats}")
    first, rows, asked = Job(chosen), [], iter(range(10**6))
    for row in first.rows():
        if isinstance(row, Halt):
            break
        rows.append(to_json(row))
        if row.kind == "train":  # a validation follows: its second batch finds the signal
            first.evaluator.stops = lambda: next(asked) > 0
    state = first.state(row)
    assert state is not None
    assert first.at.stage == "validation"
    checkpoint.write(tmp_path / checkpoint.NAME, *state)
    second = Job(chosen)
    second.load(*checkpoint.read(tmp_path / checkpoint.NAME))
    more, digest = finished(second)
    assert ([*rows, *more], digest) == finished(Job(chosen))


@pytest.mark.parametrize("optimizer", registry.names("optimizer"))
def test_every_optimizer_goes_on(optimizer: str, tmp_path: Path) -> None:
    check(f"optimizer={optimizer}", "norm=bn", path=tmp_path)


@pytest.mark.parametrize("schedule", registry.names("schedule"))
def test_every_schedule_goes_on(schedule: str, tmp_path: Path) -> None:
    check(f"schedule={schedule}", "warmup=0.3", "norm=gn", path=tmp_path)


FAST = ("data=synthetic", "model=mlp", "model.width=16", "batch=2", "norm=bn", "tb=false")
LONG = (*FAST, "steps=1500", "eval_every=1", "checkpoint_every=150")


def await_checkpoint(place: Path) -> Path:
    (found, *_) = until(lambda: [*place.rglob(checkpoint.NAME)])
    return found.parent


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_stopped_run_goes_on_to_the_same_bytes(
    sent: signal.Signals, code: int, tmp_path: Path
) -> None:
    process = started(*("train", *LONG, "--outputs", str(tmp_path / "cut")))
    folder = await_checkpoint(tmp_path / "cut")
    process.send_signal(sent)
    assert process.wait(LIMIT_S) == code
    for name in ("cut", "whole"):
        done = normbench("train", *LONG, "--outputs", str(tmp_path / name), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    whole = next((tmp_path / "whole").rglob("status.json")).parent
    first, second = (json.loads((each / "status.json").read_text()) for each in (folder, whole))
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert first["state_sha256"] == second["state_sha256"]
    assert first["final"] == second["final"]
    assert first["resumed_at"][0] >= 150
    assert not (folder / checkpoint.NAME).exists()


def test_what_does_not_belong_to_a_run_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    process = started("train", *LONG, "--outputs", str(tmp_path))
    folder = await_checkpoint(tmp_path)
    process.kill()
    process.wait()
    path, rows = folder / checkpoint.NAME, folder / "metrics.jsonl"
    whole, lines = path.read_bytes(), rows.read_bytes()
    tensors, about = checkpoint.read(path)

    def refused(words: str) -> None:
        before = {each.name: each.read_bytes() for each in folder.iterdir() if each.name != ".lock"}
        done = normbench("train", *LONG, "--outputs", str(tmp_path), cwd=tmp_path)
        assert done.returncode == 3, done.stderr
        assert words in done.stderr
        after = {each.name: each.read_bytes() for each in folder.iterdir() if each.name != ".lock"}
        assert after == before

    path.write_bytes(whole[: len(whole) // 2])
    refused("its header says")
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    refused("its digest is another")
    for key, value in {"torch": "1.0", "threads": 77, "run": "mlp-bn/seed1"}.items():
        belongs = {**about["belongs"], key: value}
        checkpoint.write(path, tensors, {**about, "belongs": belongs})
        refused(f"{key} is {value} there")
    name = next(each for each in tensors if each.startswith("model.") and tensors[each].dim())
    rest = {each: tensors[each] for each in tensors if each != name}
    for forged in ({}, {name: tensors[name][:1].clone()}, {name: tensors[name].double()}):
        checkpoint.write(path, {**rest, **forged}, about)
        refused(f"{name} is ")  # before the status says that it runs
    path.write_bytes(whole)
    rows.write_bytes(lines[:10])
    refused("when its run was kept")
    rows.write_bytes(lines.replace(b"0", b"1", 1))
    refused("its digest is another")
    rows.write_bytes(lines + b'{"kind": "tr')  # what a kill leaves behind
    assert normbench("train", *LONG, "--outputs", str(tmp_path), cwd=tmp_path).returncode == 0
