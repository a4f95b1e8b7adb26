"""Rows 2 to 4, 29, 38, 39 and 41: sweeps whose processes are killed, and several at once."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from commands import LIMIT_S, Command, document, normbench, started, until

from normbench.runs import checkpoint
from normbench.runs.reader import METRICS, STATUS
from normbench.runtime import lock

TINY = ("data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "device=cpu")
# Long enough to be killed in their midst, whatever else the machine does.
CELLS = (*TINY, "norm=bn,gn", "seeds=2", "batch=2", "steps=4000", "eval_every=1", "tb=false")


def statuses(place: Path) -> dict[str, dict[str, Any]]:
    """The states of the runs that began, by name."""
    found = sorted(place.glob(f"outputs/runs/*/*/{STATUS}"))
    return {"/".join(path.parts[-3:-1]): json.loads(path.read_text()) for path in found}


def bits(place: Path) -> dict[str, tuple[str, bytes]]:
    """What equal sweeps have in common: state and rows of each run, and their results."""
    runs = place / "outputs/runs"
    return {
        name: (str(status["state_sha256"]), (runs / name / METRICS).read_bytes())
        for name, status in statuses(place).items()
    }


def results(place: Path) -> list[dict[str, str]]:
    """The results of the only sweep, without the seconds that they took."""
    (path,) = place.glob("outputs/sweeps/*/results.csv")
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert all(row.pop("seconds") and row.pop("cpu_seconds") for row in rows)
    return rows


def children(pid: int) -> list[int]:
    text = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(word) for word in text.split()]


def attempts(place: Path) -> list[int]:
    return sorted(status["attempts"] for status in statuses(place).values())


def training(place: Path, least: int = 1) -> list[str]:
    """The runs that have recorded training steps and go on."""
    names = [name for name, status in statuses(place).items() if status["state"] == "running"]
    runs = place / "outputs/runs"
    rows = ((name, runs / name / METRICS) for name in names)
    found = [name for name, path in rows if path.exists() and path.read_bytes().count(b"\n") > 1]
    return found if len(found) >= least else []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that nothing happens to."""
    place = tmp_path_factory.mktemp("whole")
    assert normbench("train", "-m", *CELLS, "jobs=2", cwd=place).returncode == 0
    return place


Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start sweeps in the test's folder, each in a session of its own; what is left is killed."""
    sweeps = []

    def begin(*words: str, **options: Any) -> Command:
        sweeps.append(started("train", "-m", *words, cwd=tmp_path, session=True, **options))
        return sweeps[-1]

    yield begin
    for process in sweeps:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_row_2_a_killed_sweep_leaves_its_trace_and_goes_on_to_the_same_bits(
    whole: Path, tmp_path: Path, start: Start
) -> None:
    process = start(*CELLS, "jobs=2")
    done = "finished"
    until(lambda: [s for s in statuses(tmp_path).values() if s["state"] == done])
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (path,) = tmp_path.glob("outputs/sweeps/*/sweep.json")
    trace = json.loads(path.read_text())
    assert trace["state"] == "running" and trace["started_at"] and trace["versions"]
    assert len(trace["cells"]) == 4 and "normbench train -m" in trace["command"]
    told = document("status", str(path.parent), cwd=tmp_path)["counts"]
    assert sum(told.values()) == 4 and set(told) <= {"finished", "abandoned", "planned"}
    before = {name: s for name, s in statuses(tmp_path).items() if s["state"] == done}
    # Row 29: another number of jobs is no other sweep.
    assert normbench("train", "-m", *CELLS, "jobs=1", cwd=tmp_path).returncode == 0
    assert {name: statuses(tmp_path)[name] for name in before} == before
    assert bits(tmp_path) == bits(whole) and results(tmp_path) == results(whole)
    assert json.loads(path.read_text())["state"] == "ended"
    assert document("verify", cwd=tmp_path)["damaged"] == []


def test_row_3_a_killed_child_is_tried_once_more(whole: Path, tmp_path: Path, start: Start) -> None:
    process = start(*CELLS, "jobs=2", "lanes=1")
    until(lambda: training(tmp_path, 2))
    os.kill(children(process.pid)[0], signal.SIGKILL)
    killed = until(lambda: [n for n, s in statuses(tmp_path).items() if s["state"] == "failed"])
    assert statuses(tmp_path)[killed[0]]["reason"] == "worker_killed"
    assert process.wait(LIMIT_S) == 0
    assert attempts(tmp_path) == [1, 1, 1, 2]
    assert bits(tmp_path) == bits(whole) and results(tmp_path) == results(whole)


def test_row_3_a_child_that_is_killed_twice_has_failed(tmp_path: Path, start: Start) -> None:
    endless = (*TINY, "seeds=2", "steps=2000000", "batch=2", "eval_every=1", "tb=false", "jobs=2")
    process = start(*endless)
    for attempt in (1, 2):  # both children, and both once more
        until(lambda n=attempt: training(tmp_path, 2) and attempts(tmp_path) == [n, n])
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
    assert process.wait(LIMIT_S) == 1
    ended = [(status["state"], status["reason"]) for status in statuses(tmp_path).values()]
    assert ended == [("failed", "worker_killed")] * 2


def test_row_3_runs_that_train_together_are_stopped_and_killed_and_go_on(
    whole: Path, tmp_path: Path, start: Start
) -> None:
    words = (*CELLS, "jobs=1", "lanes=2", "checkpoint_every=300")
    process = start(*words)
    until(lambda: len([*tmp_path.glob(f"outputs/runs/*/*/{checkpoint.NAME}")]) == 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 143
    assert document("status", cwd=tmp_path)["counts"] == {"interrupted": 2}
    process = start(*words)
    until(lambda: training(tmp_path, 2))
    os.kill(children(process.pid)[0], signal.SIGKILL)
    assert process.wait(LIMIT_S) == 0
    assert attempts(tmp_path) == [1, 1, 3, 3]
    assert sorted(bool(any(each["resumed_at"])) for each in statuses(tmp_path).values()) == [
        *(False, False),
        *(True, True),
    ]
    assert bits(tmp_path) == bits(whole) and results(tmp_path) == results(whole)


def test_row_4_children_end_with_their_parent_and_no_cell_runs_twice(
    whole: Path, tmp_path: Path, start: Start
) -> None:
    process = start(*CELLS, "jobs=2", "lanes=1")
    until(lambda: training(tmp_path, 2))
    left = children(process.pid)
    process.kill()
    process.wait()
    assert normbench("train", "-m", *CELLS, "jobs=2", cwd=tmp_path).returncode == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
    assert attempts(tmp_path) == [1, 1, 2, 2]
    assert bits(tmp_path) == bits(whole) and results(tmp_path) == results(whole)


def test_row_38_and_41_eight_sweeps_at_once_share_the_work(
    whole: Path, tmp_path: Path, start: Start
) -> None:
    printed = [tmp_path / f"{number}.txt" for number in range(8)]
    sweeps = [start(*CELLS, "jobs=1", streams=[path, os.devnull]) for path in printed]
    until(lambda: training(tmp_path))
    locked = [path.parent for path in tmp_path.glob("outputs/runs/*/*/.lock")]
    while any(process.poll() is None for process in sweeps):  # row 41: readers meanwhile
        assert sum(document("status", cwd=tmp_path)["counts"].values()) <= 4
        [lock.held(folder) for folder in locked]
    assert [process.returncode for process in sweeps] == [0] * 8
    assert len({path.read_bytes() for path in printed}) == 1 and printed[0].stat().st_size
    assert attempts(tmp_path) == [1] * 4
    for path in tmp_path.glob("outputs/runs/*/*/timing.jsonl"):
        assert len({json.loads(line)["process"] for line in path.read_text().splitlines()}) == 1
    (folder,) = tmp_path.glob("outputs/sweeps/*")
    # The table is what the runs tell, byte for byte, whichever sweep wrote it last.
    assert document("verify", str(folder), cwd=tmp_path)["damaged"] == []
    assert bits(tmp_path) == bits(whole) and results(tmp_path) == results(whole)


def test_row_39_overlapping_sweeps_train_what_they_share_once(tmp_path: Path, start: Start) -> None:
    short = (*TINY, "seeds=2", "steps=2000", "batch=2", "eval_every=1", "tb=false", "jobs=1")
    both = [start(*short, norms) for norms in ("norm=bn,gn", "norm=gn,none")]
    assert [process.wait(LIMIT_S) for process in both] == [0, 0]
    assert attempts(tmp_path) == [1] * 6
    tables = [path.read_text() for path in tmp_path.glob("outputs/sweeps/*/results.csv")]
    assert sorted(text.count("\n") for text in tables) == [5, 5]
    assert document("verify", cwd=tmp_path)["damaged"] == []
