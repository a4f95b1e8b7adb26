"""`normbench status` and `verify`: what they tell of runs, and that they change nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Command, document, normbench, started, until

from normbench.runtime import lock

TINY = ("data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "device=cpu")
SHORT = (*TINY, "steps=5", "eval_every=1", "tb=false")
LONG = (*TINY, "steps=1000000", "eval_every=1000", "tb=false", "log_every=100")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    words = ("norm=bn,gn", "eval_stats=running,batch", "seeds=2")
    assert normbench("train", "-m", *SHORT, *words, cwd=place).returncode == 0
    return place


@pytest.fixture
def swept(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained / "outputs", tmp_path / "outputs")
    return tmp_path


def only(place: Path, pattern: str) -> Path:
    return sorted((place / "outputs").glob(pattern))[0]


def everything(place: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in place.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def running(place: Path) -> Command:
    """Start a long run and wait until it has made its first steps."""
    process = started("train", *LONG, cwd=place)
    rows = "outputs/runs/*/seed0/metrics.jsonl"
    until(lambda: any(path.stat().st_size for path in place.glob(rows)))
    return process


@pytest.mark.parametrize("what", ["", "outputs", "sweeps/*", "runs/*/seed1", "runs/*"])
def test_runs_and_sweeps_are_told_and_whole_and_stay_as_they_are(what: str, trained: Path) -> None:
    words = () if not what else ("outputs",) if what == "outputs" else (str(only(trained, what)),)
    count = {"runs/*": 2, "runs/*/seed1": 1}.get(what, 4)
    before = everything(trained)
    told = document("status", *words, cwd=trained)
    assert told["counts"] == {"finished": count}
    assert {run["step"] for run in told["runs"]} == {5}
    assert document("verify", *words, cwd=trained) == {
        "schema": 1,
        "command": "verify",
        "runs": count,
        "damaged": [],
    }
    assert everything(trained) == before


def test_the_screen_names_each_run_and_counts_the_states(trained: Path) -> None:
    lines = normbench("status", cwd=trained).stdout.splitlines()
    assert sum(line.split()[1:3] == ["finished", "5/5"] for line in lines) == 4
    assert lines[-1] == "4 finished"
    assert normbench("verify", cwd=trained).stdout == "4 runs: all files are whole\n"


def test_a_run_is_running_then_abandoned_and_the_reader_takes_no_lock(tmp_path: Path) -> None:
    process = running(tmp_path)
    try:
        for _ in range(20):
            assert document("status", cwd=tmp_path)["counts"] == {"running": 1}
        assert document("verify", cwd=tmp_path)["damaged"] == []
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert document("status", cwd=tmp_path)["counts"] == {"abandoned": 1}


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    process = running(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    (run,) = document("status", cwd=tmp_path)["runs"]
    assert (run["state"], run["reason"]) == ("interrupted", "sigterm")


def test_cells_that_have_not_begun_are_planned(swept: Path) -> None:
    shutil.rmtree(only(swept, "runs/*/seed1"))
    told = document("status", str(only(swept, "sweeps/*")), cwd=swept)
    assert told["counts"] == {"finished": 3, "planned": 1}


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a digit of a row": (
        "metrics.jsonl",
        lambda path: path.write_text(
            path.read_text().replace('"train/loss": 2', '"train/loss": 3')
        ),
    ),
    "half a row more": ("metrics.jsonl", lambda path: path.write_text(path.read_text() + '{"ki')),
    "no rows": ("metrics.jsonl", Path.unlink),
    "half a row of times": ("timing.jsonl", lambda path: path.write_text('{"kind": "time"')),
    "a row of times that is none": ("timing.jsonl", lambda path: path.write_text("{}\n")),
    "a bit of the weights": ("weights.safetensors", flipped),
    "no weights": ("weights.safetensors", Path.unlink),
    "a setting": (
        "config.yaml",
        lambda path: path.write_text(path.read_text().replace("batch: 64", "batch: 32")),
    ),
    "no settings": ("config.yaml", Path.unlink),
    "no versions": ("environment.json", lambda path: path.write_text("{")),
    "no state": ("status.json", Path.unlink),
    "half an evaluation": ("evaluation-own.json", lambda path: path.write_text("{")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_named_and_left_as_it_is(damage: str, swept: Path) -> None:
    name, do = DAMAGES[damage]
    run = only(swept, "runs/mlp-width8-bn*/seed0")
    was = (run / name).read_bytes()
    do(run / name)
    assert not (run / name).exists() or (run / name).read_bytes() != was
    before = everything(swept)
    for place in (run, only(swept, "sweeps/*"), swept / "outputs"):
        done = normbench("verify", str(place), "--json", cwd=swept)
        assert done.returncode == 3
        (found,) = json.loads(done.stdout)["damaged"]
        assert found["path"] == str(run / name)
        head, fix = done.stderr.splitlines()
        assert head.startswith("normbench: error: ") and fix.startswith("  try: ")
    assert everything(swept) == before


def test_weights_of_another_run_are_found(swept: Path) -> None:
    run, other = only(swept, "runs/mlp-width8-bn*/seed0"), only(swept, "runs/mlp-width8-bn*/seed1")
    shutil.copy(other / "weights.safetensors", run)
    done = normbench("verify", str(run), cwd=swept)
    assert done.returncode == 3 and "run is mlp-width8-bn" in done.stderr


@pytest.mark.parametrize("name", ["results.csv", "sweep.json"])
def test_a_damaged_sweep_is_found(name: str, swept: Path) -> None:
    path = only(swept, f"sweeps/*/{name}")
    csv = name == "results.csv"
    path.write_text(path.read_text().replace("finished", "finish", 1) if csv else "{")
    done = normbench("verify", str(path.parent), cwd=swept)
    assert done.returncode == 3 and done.stderr.count("\n") == 2
    assert ("is not what its runs tell" if csv else "is not JSON") in done.stderr


def test_a_damaged_state_does_not_hide_the_others(swept: Path) -> None:
    (only(swept, "runs/*/seed0") / "status.json").write_text("{")
    done = normbench("status", "--json", cwd=swept)
    assert done.returncode == 3
    assert json.loads(done.stdout)["counts"] == {"damaged": 1, "finished": 3}
    assert "status.json: is not JSON" in done.stderr


def test_a_run_without_weights_by_choice_is_whole(tmp_path: Path) -> None:
    assert normbench("train", *SHORT, "keep=none", cwd=tmp_path).returncode == 0
    assert document("verify", cwd=tmp_path)["damaged"] == []


@pytest.mark.parametrize("verb", ["status", "verify"])
def test_a_place_without_runs_is_refused(verb: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, why in (("nowhere", "is not here"), ("empty", "is neither a run, a sweep")):
        done = normbench(verb, place, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith(f"normbench: error: {place}: {why}")
    assert normbench(verb, "a", "b", cwd=tmp_path).returncode == 2


def test_neither_imports_torch(trained: Path) -> None:
    code = (
        "import sys; from normbench.cli.main import main; "
        "codes = [main(['status', 'outputs']), main(['verify', 'outputs'])]; "
        "sys.exit(codes != [0, 0] or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=trained, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_who_holds_a_lock_is_seen_without_taking_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not lock.held(tmp_path)
    with lock.Lock(tmp_path):
        assert lock.held(tmp_path)
        monkeypatch.setattr(lock, "LOCKS", tmp_path / "none")  # as on macOS
        assert lock.held(tmp_path)
        monkeypatch.undo()
    assert not lock.held(tmp_path)
    (tmp_path / ".lock").write_text("")  # as on file systems without locks
    assert lock.held(tmp_path)
    (tmp_path / ".lock").write_text(f"{os.getpid()}\n")
    assert not lock.held(tmp_path)
