"""Runs that train together in one process: each as it is alone, whatever becomes of the others."""

import signal
from functools import partial

import pytest

from normbench.engine.lanes import Lanes
from normbench.runs import lockstep
from normbench.runs.reader import METRICS, read_status
from normbench.runs.run import run
from normbench.runtime.lock import Lock
from normbench.settings import compose
from normbench.sweeps.completing import step_by_step
from normbench.sweeps.items import Item

TINY = (
    *("data=synthetic", "data.shape=[1,6,6]", "data.train_size=64", "model=mlp", "model.width=8"),
    *("device=cpu", "batch=8", "steps=24", "log_every=4", "eval_every=1", "capture=on"),
)
RATES = ("0.05", "1e30", "0.2", "0.1", "0.15")  # the second diverges


@pytest.fixture(scope="module")
def grid():
    return compose.Grid(compose.loader())


@pytest.fixture
def configs(grid, tmp_path):
    def made(place, *words):
        rates = f"optimizer.lr={','.join(RATES)}"
        words = (*TINY, *words, rates, f"outputs={tmp_path / place}")
        return [cell.config for cell in grid.cells(words, True)]

    return made


def trained(configs, on_row=lambda number, row: None):
    items = [Item(config) for config in configs]

    runs = [
        partial(step_by_step, item, partial(on_row, number)) for number, item in enumerate(items)
    ]
    lockstep.train(configs, runs)
    return items


def bits(configs):
    """What equal runs have in common: how they ended, and their rows."""
    found = [(each.directory, read_status(each.directory)) for each in configs]
    return [
        (status["state"], status["state_sha256"], (folder / METRICS).read_bytes())
        for folder, status in found
    ]


@pytest.fixture
def alone(configs):
    def made(*words):
        for config in configs("alone", *words):
            run(config)
        return bits(configs("alone", *words))

    return made


WAYS = {
    "norm": ("norm=bn", "tb=true"),
    "all": ("norm=gn", "norm.groups=2", "dropout=0.2", "accumulate=2", "optimizer=adam"),
}


@pytest.mark.parametrize("words", WAYS.values(), ids=WAYS)
def test_runs_have_the_rows_and_weights_of_each_alone_and_one_diverges(words, configs, alone):
    items = trained(configs("together", *words))
    states = [item.state for item in items]
    assert states == ["finished", "diverged", "finished", "finished", "finished"]
    assert bits(configs("together", *words)) == alone(*words)


def test_what_goes_wrong_in_a_run_is_its_own_affair(configs, alone, monkeypatch):
    made, call, calls = configs("together", "norm=none"), Lanes.__call__, []

    def failing(self, due):
        calls.append([place for place, _, _ in due])
        return {**call(self, due), **({1: ArithmeticError("sum")} if len(calls) == 7 else {})}

    def full(number, row):
        if (number, row.kind, row.step) == (3, "train", 12):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Lanes, "__call__", failing)
    made[0].directory.mkdir(parents=True)
    with Lock(made[0].directory):
        items = trained(made, full)
    told = [(item.state, item.message) for item in items]
    assert told[1:4] == [
        ("diverged", None),
        ("failed", "ArithmeticError: sum"),
        ("failed", "OSError: [Errno 28] No space left on device"),
    ]
    assert told[0][0] == "busy"
    # Of those that came to a step the second fails in its seventh, the third with its row.
    assert calls[0] == [0, 1, 2, 3] and calls[7] == calls[0][2:] and calls[-1] == [3]
    assert bits(made[4:]) == alone("norm=none")[4:]


def test_what_ends_the_process_is_recorded_in_each_run(configs, monkeypatch):
    made = configs("together", "norm=none")
    interrupt = signal.SIGINT
    monkeypatch.setattr(Lanes, "__call__", lambda *_: signal.raise_signal(interrupt) or {})
    with pytest.raises(KeyboardInterrupt):
        trained(made)
    states = [read_status(each.directory) for each in made]
    assert [(each["state"], each["reason"]) for each in states] == [("interrupted", "sigint")] * 5
