"""TensorBoard's view of a sweep: a run for each cell, means over the seeds with their bounds."""

from __future__ import annotations

import json
import shlex
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import normbench

from normbench.results import stats
from normbench.results.groups import Result
from normbench.rows import Row, to_json
from normbench.runs.reader import read_rows
from normbench.settings.compose import Grid, loader
from normbench.sweeps import curves
from normbench.sweeps.curves import Board

WORDS = ("model=mlp", "data=synthetic", "norm=bn,gn", "steps=20", "log_every=10", "seeds=3")


@pytest.fixture(scope="module")
def swept(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    place = tmp_path_factory.mktemp("a folder with blanks")
    done = normbench("train", "-m", *WORDS, f"outputs='{place}'", cwd=place)
    assert done.returncode == 0, done.stderr
    (folder,) = (place / "sweeps").iterdir()
    return folder / "tensorboard", done


def events(folder: Path) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TensorBoard's reader, which no part of normbench uses
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

        (path,) = folder.iterdir()
        yield from LegacyEventFileLoader(str(path)).Load()


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_each_cell_is_a_run_named_by_what_varies(swept: Any) -> None:
    folder, _ = swept
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["bn", "gn"]


def test_the_last_line_opens_the_cells_when_it_is_pasted(swept: Any) -> None:
    folder, done = swept
    assert shlex.split(done.stderr.splitlines()[-1]) == ["tensorboard", "--logdir", str(folder)]


@pytest.mark.parametrize("tag", ["val/accuracy", "val/loss", "train/loss", "optim/lr"])
def test_a_curve_is_the_mean_over_the_seeds_between_its_bounds(swept: Any, tag: str) -> None:
    folder, _ = swept
    runs = sorted(folder.parents[2].glob("runs/mlp-gn-*/seed*"))
    seeds = [{r.examples: r.values[tag] for r in read_rows(run) if tag in r.values} for run in runs]
    found = scalars(folder / "gn")
    shown = tag if tag.startswith("val/") else f"~{tag}"
    assert found[shown].keys() == seeds[0].keys()
    for place in seeds[0]:
        expected = stats.interval([float(seed[place]) for seed in seeds])
        assert expected
        low = max(0.0, expected.low)
        high = min(1.0, expected.high) if tag == "val/accuracy" else expected.high
        got = [found[f"{shown}{end}"][place] for end in ("", " lower", " upper")]
        assert got == pytest.approx([expected.mean, low, high], rel=1e-5, abs=1e-7)


def test_validation_comes_before_all_others(swept: Any) -> None:
    tags = sorted(scalars(swept[0] / "bn"))  # as TensorBoard sorts them
    assert tags[:3] == ["val/accuracy", "val/accuracy lower", "val/accuracy upper"]
    assert not [tag for tag in tags if tag.startswith(("batch/", "chance/"))]
    assert "~test/accuracy" in tags


def test_what_is_as_it_was_is_not_written_again(swept: Any, tmp_path: Path) -> None:
    folder, _ = swept
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = normbench("train", "-m", *WORDS, f"outputs='{folder.parents[2]}'", cwd=tmp_path)
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_without_events_there_are_no_curves(tmp_path: Path) -> None:
    words = ("model=mlp", "data=synthetic", "norm=bn,gn", "steps=4", "tb=false")
    done = normbench("train", "-m", *words, cwd=tmp_path)
    assert done.returncode == 0
    assert not list(tmp_path.glob("outputs/sweeps/*/tensorboard"))
    assert done.stderr.splitlines()[-1] != "tensorboard --logdir outputs/sweeps"


class Growing:
    """A sweep of one cell, as its runs go on."""

    def __init__(self, outputs: Path, seeds: int) -> None:
        words = ["model=mlp", "data=synthetic", "steps=20", f"outputs={outputs}", f"seeds={seeds}"]
        (cell,) = Grid(loader()).cells(words, False)
        assert cell.config
        self.items = [SimpleNamespace(config=config) for config in cell.config.with_seeds()]
        self.state = "running"

    def results(self) -> list[Result]:
        directories = [str(item.config.directory) for item in self.items]
        return [
            Result(path, {"norm": "bn", "seed": str(seed)}, self.state)
            for seed, path in enumerate(directories)
        ]

    def record(self, seed: int, *accuracies: float) -> None:
        directory = self.items[seed].config.directory
        directory.mkdir(parents=True, exist_ok=True)
        rows = [
            Row("val", step, 64 * step, 0.1, {"val/accuracy": value})
            for step, value in enumerate(accuracies)
        ]
        (directory / "metrics.jsonl").write_text("".join(to_json(row) + "\n" for row in rows))


def board(tmp_path: Path, sweep: Growing) -> tuple[Board, Path]:
    made = Board(tmp_path / "sweep", sweep, ["norm"])  # type: ignore[arg-type]
    return made, tmp_path / "sweep/tensorboard/bn"


def test_curves_grow_with_the_seeds_and_replace_what_was_shown(tmp_path: Path) -> None:
    sweep = Growing(tmp_path, 3)
    made, cell = board(tmp_path, sweep)
    sweep.record(0, 0.1, 0.5)
    made.write()
    assert scalars(cell) == {"val/accuracy": {0: pytest.approx(0.1), 64: 0.5}}
    sweep.record(1, 0.3)
    sweep.record(2, 0.2)
    made.write()
    found = scalars(cell)
    assert found["val/accuracy"] == {0: pytest.approx(0.2), 64: 0.5}
    assert found["val/accuracy lower"].keys() == {0}  # of one seed there is no interval
    (path,) = cell.iterdir()
    assert path.name.endswith("000002.normbench")  # TensorBoard goes on to the next name
    starts = [event.session_log.status for event in events(cell) if event.HasField("session_log")]
    assert starts == [1]  # so that it forgets what it has read before


def test_curves_are_refreshed_at_most_once_in_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(curves.time, "monotonic", lambda: now[0])
    sweep = Growing(tmp_path, 1)
    made, cell = board(tmp_path, sweep)
    sweep.record(0, 0.1)
    made.refresh()
    assert not cell.exists()
    now[0] = 110.5
    made.refresh()
    sweep.record(0, 0.1, 0.2)
    now[0] = 120.0
    made.refresh()
    assert len(scalars(cell)["val/accuracy"]) == 1
    now[0] = 121.0
    made.refresh()
    assert len(scalars(cell)["val/accuracy"]) == 2


def test_a_list_of_cells_that_somebody_edited_leads_nowhere(tmp_path: Path) -> None:
    sweep = Growing(tmp_path, 1)
    made, cell = board(tmp_path, sweep)
    outside = tmp_path / "mine"
    outside.mkdir()
    (outside / "kept.txt").write_text("x")
    cell.parent.mkdir(parents=True)
    (cell.parent / "cells.json").write_text(json.dumps({"../../mine": [], str(outside): []}))
    sweep.record(0, 0.1)
    made.write()
    assert (outside / "kept.txt").read_text() == "x"
    assert cell.is_dir()


@pytest.mark.parametrize("label", ["../x", ".hidden", "a/b", "a\nb", "x" * 500])
def test_no_label_leads_out_of_the_folder(label: str) -> None:
    name = curves._safe(label)
    assert "/" not in name and name[0] != "." and len(name) < 200 and name.isprintable()


def test_bounds_are_those_of_the_interval_wherever_there_are_three_seeds() -> None:
    values = np.array([[0.1, 0.2, 0.9], [0.2, np.nan, 0.95], [0.4, 0.3, 1.0], [0.3, 0.1, 1.0]])
    found = curves._bounded(values, (0.0, 1.0))
    for place, column in enumerate(values.T):
        expected = stats.interval([x for x in column.tolist() if x == x], within=(0.0, 1.0))
        assert expected
        got = [found[end][place] for end in ("", "lower", "upper")]
        assert got == pytest.approx([expected.mean, expected.low, expected.high])
