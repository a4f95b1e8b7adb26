"""Runs of a sweep that train together: which they are, and what becomes of them."""

import csv
import io
from contextlib import nullcontext

import pytest
from commands import normbench

from normbench.engine.lanes import Lanes
from normbench.runtime import watching
from normbench.settings import compose
from normbench.sweeps import lanes, scheduler
from normbench.sweeps.items import Item

TINY = (
    *("data=synthetic", "data.shape=[1,6,6]", "data.train_size=64", "model=mlp"),
    *("device=cpu", "batch=8", "steps=8", "log_every=4", "eval_every=1", "tb=false"),
)


@pytest.fixture(scope="module")
def grid():
    return compose.Grid(compose.loader())


def configs(grid, *words):
    given = dict(word.split("=", 1) for word in (*TINY, *words))
    words = [f"{key}={value}" for key, value in given.items()]
    found = [cell.config for cell in grid.cells(words, True)]
    return [each for config in found for each in config.with_seeds()]


def sizes(found, slots, lengths=None):
    runs = dict(enumerate(found))
    lengths = lengths or dict.fromkeys(runs, 1.0)
    made = lanes.groups(runs, lengths, slots, lanes.gaining(found))
    assert sorted(number for group in made for number in group) == [*runs]
    return [len(group) for group in made]


def measured(monkeypatch):
    monkeypatch.setattr(lanes, "MEASURED", {"mlp": {"bn": 8, "gn": 8}})
    monkeypatch.setattr(lanes, "STEPS", 8)


@pytest.mark.parametrize(
    ("words", "slots", "expected"),
    [
        (["lanes=4", "seeds=8"], 2, [4, 4]),
        (["lanes=4", "seeds=5"], 1, [3, 2]),
        (["lanes=8", "seeds=8"], 2, [8]),
        (["lanes=1", "seeds=3"], 1, [1, 1, 1]),
        (["seeds=8"], 1, [8]),
        (["seeds=8"], 2, [4, 4]),  # no core is idle
        (["seeds=24"], 2, [8, 8, 4, 4]),
        (["seeds=3"], 4, [1, 1, 1]),
        (["norm=bn,gn", "seeds=8"], 2, [8, 8]),
        (["norm=bn,ln", "seeds=4"], 1, [1] * 8),  # ln does not gain: seconds are to compare
        (["norm=bn,gn,none", "seeds=4", "lanes=4"], 1, [4] * 3),
        (["norm.momentum=0.1,0.2,0.3", "seeds=4"], 2, [1] * 12),  # or one would be cut
        (["steps=7", "seeds=4"], 1, [1] * 4),
        (["model.width=200", "seeds=4"], 1, [1] * 4),
        (["data.shape=[3,32,32]", "seeds=4"], 1, [1] * 4),
        (["optimizer.lr=0.1,0.2", "schedule=constant,cosine", "seeds=2"], 1, [8]),
        (["seeds=11"], 1, [6, 5]),
        (["norm.momentum=0.1,0.2", "seeds=4"], 1, [4, 4]),
        (["batch=8,64", "seeds=4"], 1, [4, 1, 1, 1, 1]),  # as measured below
        (["capture=off", "seeds=2"], 1, [1, 1]),
        (["model=torchvision", "data.shape=[3,32,32]", "lanes=2", "seeds=2"], 1, [1, 1]),
    ],
)
def test_runs_that_make_the_same_steps_are_put_together(grid, words, slots, expected, monkeypatch):
    measured(monkeypatch)
    assert sizes(configs(grid, *words), slots) == expected


def test_a_long_group_is_cut_where_others_would_wait_for_it(grid, monkeypatch):
    measured(monkeypatch)
    found = configs(grid, "norm=bn,gn", "seeds=8")
    lengths = {number: 100.0 if number < 8 else 1.0 for number in range(16)}
    assert sizes(found, 2, lengths) == [4, 4, 8]


class Told:
    """Keeps what a watcher is told."""

    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)

    def work(self, what, total):
        return nullcontext(lambda done: None)


def test_where_memory_runs_out_half_as_many_runs_train_together(grid, tmp_path, monkeypatch):
    found = configs(grid, "seeds=5", "lanes=5", "jobs=1", f"outputs={tmp_path}")
    call = Lanes.__call__

    def hungry(self, due):
        if len(due) > 1:
            raise MemoryError
        return call(self, due)

    monkeypatch.setattr(Lanes, "__call__", hungry)
    told, rows, states = Told(), {number: [] for number in range(5)}, []
    token = watching.watcher.set(told)

    def on_change(number, state, row, note):
        states.append(state)
        if row:
            rows[number].append((row.kind, row.step))

    items = [Item(config) for config in found]
    scheduler.train_all(items, on_change)
    watching.watcher.reset(token)
    assert [item.state for item in items] == ["finished"] * 5 and "failed" not in states
    assert told.lines == ["memory ran out with 5 runs in a process: on with 2"]
    assert all(("test", 8) in each for each in rows.values())


def test_a_tuned_sweep_has_the_table_that_it_has_without_lanes(tmp_path):
    words = (*TINY, "norm=bn,gn", "seeds=2", "tune=lr", "tune_lrs=[0.05,0.2]")
    tables = []
    for lanes_and_jobs in (("lanes=1", "jobs=2"), ("lanes=4", "jobs=1")):
        place = tmp_path / lanes_and_jobs[0]
        place.mkdir()
        done = normbench("train", "-m", *words, *lanes_and_jobs, cwd=place)
        assert done.returncode == 0
        assert ("seconds are shares" in done.stdout) == (lanes_and_jobs[0] == "lanes=4")
        (path,) = place.glob("outputs/sweeps/*/results.csv")
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
        assert all(row.pop("seconds") and row.pop("cpu_seconds") for row in rows)
        tables.append([rows, sorted(p.read_bytes() for p in place.rglob("metrics.jsonl"))])
    assert tables[0] == tables[1]
