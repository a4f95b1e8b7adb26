"""One run in several processes: the same training as in one, and what ends it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import LIMIT_S, started, until
from runtime.test_workers import await_gone

from normbench.cli.main import main
from normbench.errors import FileRefused, NormbenchError
from normbench.runs.reader import read_status
from normbench.runs.run import run
from normbench.runtime import collectives, machine, workers
from normbench.settings import compose
from normbench.settings.schema import Config
from normbench.sweeps import scheduler
from normbench.sweeps.items import Item

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
TINY = ("data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "model.depth=2")
SMALL = (*TINY, "batch=32", "steps=12", "log_every=1", "device=cpu", "tb=false", "eval_every=0.1")


def small(*words: str) -> list[str]:
    """The settings of a small run, changed by `words`."""
    return list({word.partition("=")[0]: word for word in (*SMALL, *words)}.values())


def config(folder: Path, *words: str) -> Config:
    (cell,) = compose.Grid(compose.loader()).cells([*small(*words), f"outputs='{folder}'"], False)
    assert cell.config
    return cell.config


def rows(folder: Path, *words: str) -> list[dict[str, Any]]:
    chosen = config(folder, *words)
    run(chosen)
    text = (chosen.directory / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """Equal rows but for rounding, and but for what is said of batches."""
    assert [(row["kind"], row["step"]) for row in one] == [(r["kind"], r["step"]) for r in other]
    for left, right in zip(one, other, strict=True):
        for key in left.keys() - {"kind", "batch/worker", "batch/statistics", "state"}:
            assert left[key] == pytest.approx(right[key], rel=2e-4, abs=2e-5), (key, left["step"])


@pytest.mark.parametrize(
    "norm",
    ["norm=gn norm.groups=2", "norm=none", "norm=syncbn", "norm=bn norm_batch=global", "norm=wn"],
)
def test_workers_train_as_one_process_without_local_batch_statistics(norm, tmp_path):
    words = norm.split()
    same(rows(tmp_path, *words, "gpus=4"), rows(tmp_path, *words))


@pytest.mark.parametrize(
    ("several", "alone"),
    [
        ("gpus=4", "norm_batch=8"),
        ("gpus=4 norm_batch=16", "norm_batch=16"),
        ("gpus=2 norm_batch=4", "norm_batch=4"),
        ("gpus=2 accumulate=2", "accumulate=2 norm_batch=8"),
    ],
)
def test_statistics_of_workers_are_those_of_as_many_examples_in_one(several, alone, tmp_path):
    # The running statistics are averaged over workers, where one process takes chunks in turn.
    one, other = rows(tmp_path, *several.split()), rows(tmp_path, *alone.split())
    trained = [[row for row in each if row["kind"] == "train"] for each in (one, other)]
    same(*trained)


def test_accumulated_micro_batches_are_cut_over_the_workers(tmp_path):
    words = ("norm=ln", "accumulate=4")
    same(rows(tmp_path, *words, "gpus=2"), rows(tmp_path, *words))


def test_augmentation_is_the_same_on_one_and_several_workers(tmp_path):
    words = ("norm=ln", "augment=crop+flip", "order=classes", "order_classes=4")
    same(rows(tmp_path, *words, "gpus=2"), rows(tmp_path, *words))


@pytest.mark.parametrize("words", ["norm=bn", "norm=brn dropout=0.3", "norm=bn eval_stats=dataset"])
def test_the_same_run_of_workers_has_the_same_bytes(words, tmp_path):
    first = rows(tmp_path / "a", *words.split(), "gpus=2")
    assert rows(tmp_path / "b", *words.split(), "gpus=2") == first
    status = [
        read_status(config(tmp_path / each, *words.split(), "gpus=2").directory) for each in "ab"
    ]
    assert status[0]["state_sha256"] == status[1]["state_sha256"]


def test_the_first_row_says_all_three_batches(tmp_path):
    for norm, behind in (("bn", 16), ("syncbn", 32)):
        first = rows(tmp_path, f"norm={norm}", "gpus=2", "steps=2")[0]
        batches = [first[f"batch/{each}"] for each in ("global", "worker", "statistics")]
        assert batches == [32, 16, behind]


@pytest.mark.parametrize(
    ("words", "examples"),
    [
        ("norm=bn norm_batch=16 gpus=4", 16),
        ("norm=bn norm_batch=4 gpus=4", 4),
        ("norm=ghostbn norm.size=16 gpus=4", 8),
        ("norm=ghostbn norm.size=5 gpus=4", 4),  # chunks of 4 and 4, not of 5 and 3
        ("norm=gn gpus=4", 1),
        ("norm=bn norm_batch=global gpus=2 accumulate=4", 8),
    ],
)
def test_the_examples_behind_a_statistic_are_told(words, examples, tmp_path):
    assert config(tmp_path, *words.split()).stat_batch == examples


@pytest.mark.parametrize("stats", ["running", "batch", "dataset"])
@pytest.mark.parametrize(
    "norm",
    ["bn", "evalnorm", *(pytest.param(each, marks=pytest.mark.slow) for each in ("syncbn", "brn"))],
)
def test_every_way_to_evaluate_works_in_several_processes(norm, stats, tmp_path):
    last = rows(tmp_path, f"norm={norm}", f"eval_stats={stats}", "gpus=2", "steps=4")[-2]
    assert last["kind"] == "test"
    assert 0 <= last["test/accuracy"] <= 1


def test_a_lost_worker_fails_the_run_by_name(tmp_path, monkeypatch):
    begin = collectives.unlike_first

    def die(digest: str, device: str) -> list[int]:
        if collectives.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return begin(digest, device)

    monkeypatch.setattr(collectives, "unlike_first", die)
    chosen = config(tmp_path, "norm=bn", "gpus=3", "batch=33")
    with pytest.raises(workers.RankLost, match="worker 1: was killed by SIGKILL"):
        run(chosen)
    status = read_status(chosen.directory)
    assert (status["state"], status["reason"], status["exit_code"]) == ("failed", "rank_lost", 1)
    assert status["message"] == "worker 1: was killed by SIGKILL"


def test_workers_with_other_data_are_refused_before_the_first_step(tmp_path, monkeypatch):
    compare = collectives.unlike_first

    def other(digest: str, device: str) -> list[int]:
        return compare("00" * 32 if collectives.rank() == 2 else digest, device)

    monkeypatch.setattr(collectives, "unlike_first", other)
    chosen = config(tmp_path, "gpus=4")
    with pytest.raises(
        NormbenchError, match="worker 2 had another configuration or other data"
    ) as e:
        run(chosen)
    assert e.value.code == FileRefused.code
    status = read_status(chosen.directory)
    assert (status["reason"], status["exit_code"], status["step"]) == ("data", 3, 0)


def test_an_error_of_a_worker_stands_in_error_txt(tmp_path, monkeypatch):
    def broken(digest: str, device: str) -> list[int]:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(collectives, "unlike_first", broken)
    chosen = config(tmp_path, "gpus=2")
    with pytest.raises(workers.WorkFailed):
        run(chosen)
    assert "ZeroDivisionError: by nothing" in (chosen.directory / "error.txt").read_text()


def await_rows(folder: Path) -> Path:
    def begun() -> list[Path]:
        rows = folder.glob("runs/*/seed0/metrics.jsonl")
        return [path.parent for path in rows if path.read_text().count("\n") > 3]

    return until(begun)[0]


def workers_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def long_run(tmp_path):
    """A command with two workers that would go on for long, and its folder."""
    words = small("norm=bn", "gpus=2", "steps=100000", "eval_every=1")
    process = started("train", *words, cwd=tmp_path, streams=[os.devnull, tmp_path / "err"])
    yield process, await_rows(tmp_path / "outputs")
    process.kill()
    process.wait()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes_and_is_recorded(sent, long_run):
    process, folder = long_run
    pids = workers_of(process.pid)
    assert len(pids) == 2
    process.send_signal(sent)
    assert process.wait(LIMIT_S) == 128 + sent
    await_gone(*pids)
    assert json.loads((folder / "status.json").read_text())["state"] == "interrupted"


def test_no_worker_outlives_a_command_that_was_killed(long_run):
    process, _ = long_run
    pids = workers_of(process.pid)
    process.kill()
    await_gone(*pids)


def test_a_killed_worker_ends_the_command_with_one_message_and_code_1(long_run):
    process, folder = long_run
    first, second = workers_of(process.pid)
    os.kill(second, signal.SIGKILL)
    assert process.wait(LIMIT_S) == 1
    errors = (folder.parents[3] / "err").read_text()[-400:]
    assert "normbench: error: worker 1: was killed by SIGKILL\n  try: " in errors
    assert "Traceback" not in errors
    await_gone(first)
    assert json.loads((folder / "status.json").read_text())["reason"] == "rank_lost"


def test_workers_meet_at_a_port_if_one_is_named(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    at_port = rows(tmp_path / "port", "gpus=2", f"dist.port={port}")
    assert at_port == rows(tmp_path / "file", "gpus=2")


def test_a_port_in_use_is_refused_before_anything_is_created(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert main(["train", *SMALL, "gpus=2", f"dist.port={port}"]) == 4
    assert capsys.readouterr().err == (
        f"normbench: error: dist.port={port}: cannot be taken (address already in use)\n"
        "  try: dist.port=null\n"
    )
    assert not list(tmp_path.iterdir())


def test_more_workers_than_a_machine_can_start_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(machine, "cores", lambda: 2)
    assert main(["train", *small("gpus=256", "batch=256")]) == 4
    assert capsys.readouterr().err == (
        "normbench: error: gpus=256: is too much for this machine of 2 CPU cores\n  try: gpus=128\n"
    )


@pytest.mark.parametrize(
    ("gpus", "jobs", "cores", "together"),
    [
        ([1, 2, 1], "auto", 2, 2),  # the third beside the first, then the second
        ([2, 2, 1], "auto", 2, 1),
        pytest.param([1, 1, 1], "auto", 2, 2, marks=pytest.mark.slow),
        pytest.param([1, 2, 1, 1], "auto", 3, 3, marks=pytest.mark.slow),
        pytest.param([4, 4], "auto", 2, 1, marks=pytest.mark.slow),
        ([4, 1, 1], 3, 2, 3),
    ],
)
def test_runs_that_go_on_together_have_a_core_for_each_worker(
    gpus, jobs, cores, together, tmp_path, monkeypatch
):
    monkeypatch.setattr(machine, "cores", lambda: cores)
    words = [(f"gpus={each}", f"jobs={jobs}", f"seed={k}") for k, each in enumerate(gpus)]
    items = [Item(config(tmp_path, *each), {}) for each in words]
    live: set[int] = set()
    most = 0

    def tell(index, state, row, note):
        nonlocal most
        (live.add if state == "running" else live.discard)(index)
        most = max(most, len(live))

    scheduler.train_all(items, tell)
    assert [item.state for item in items] == ["finished"] * len(items)
    assert most == together


def test_a_lost_worker_leaves_the_other_runs_of_a_sweep_alone(tmp_path, monkeypatch, capsys):
    doomed, other = (config(tmp_path, f"norm={each}", "gpus=2") for each in ("bn", "gn"))
    mark = hashlib.sha256(f"{doomed.sha256} {doomed.seed} {doomed.digest}".encode()).hexdigest()
    compare = collectives.unlike_first

    def die_of_one(digest: str, device: str) -> list[int]:
        if digest == mark and collectives.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return compare(digest, device)

    monkeypatch.setattr(collectives, "unlike_first", die_of_one)
    words = small("norm=bn,gn", "gpus=2", f"outputs='{tmp_path}'")
    assert main(["train", "-m", *words]) == 1
    assert "worker 1: was killed by SIGKILL" in capsys.readouterr().out
    assert read_status(doomed.directory)["reason"] == "rank_lost"
    assert read_status(other.directory)["state"] == "finished"


@pytest.mark.parametrize("place", [{"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}])
def test_another_number_of_workers_than_torchrun_s_is_refused(place, monkeypatch, capsys):
    for name, value in {**place, "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    assert main(["train", *TINY, "gpus=2"]) == 2
    assert capsys.readouterr().err == (
        "normbench: error: gpus=2: torchrun has started 4 workers\n  try: gpus=4\n"
    )


def test_torchrun_starts_the_workers_of_a_run(tmp_path):
    words = small("norm=gn", "gpus=2", f"outputs='{tmp_path}'")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
        + ["-m", "normbench", "train", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1
    chosen = config(tmp_path, "norm=gn", "gpus=2")
    ours = [
        json.loads(each) for each in (chosen.directory / "metrics.jsonl").read_text().splitlines()
    ]
    assert ours == rows(tmp_path / "ours", "norm=gn", "gpus=2")
