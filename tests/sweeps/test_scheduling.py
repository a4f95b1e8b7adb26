"""The order in which the runs of a sweep start: the longest first."""

import os

from normbench.models.mlp import MLP
from normbench.norms import create
from normbench.norms._units import UnitBuilder
from normbench.runs import build
from normbench.runs.reader import read_status
from normbench.runtime.processes import Channel
from normbench.settings import compose
from normbench.sweeps import pool, scheduler
from normbench.sweeps.items import Item

TINY = ("data=synthetic", "data.shape=[1,8,8]", "device=cpu", "tb=false")


def configs(*words):
    return [cell.config for cell in compose.Grid(compose.loader()).cells([*TINY, *words], True)]


def test_the_multiply_adds_of_dense_layers_are_their_weights():
    (config,) = configs("model=mlp", "norm=bn")
    built = MLP().build(UnitBuilder(create("none")), (1, 8, 8), 10)
    assert build.work(config) == sum(each.numel() for each in built.parameters() if each.dim() > 1)


def test_the_multiply_adds_of_a_convolution_count_its_positions():
    (config,) = configs("model=cnn")
    assert build.work(config) == 16 * 9 * 64 + 32 * 16 * 9 * 16 + 32 * 4 * 10


def test_more_steps_larger_batches_and_larger_models_are_longer():
    words = {"model": "mlp", "batch": 8, "steps": 20, "eval_every": 1000}

    def length(**changed):
        (config,) = configs(*(f"{key}={value}" for key, value in {**words, **changed}.items()))
        return scheduler.length(config)

    for changed in ({"model": "cnn"}, {"batch": 64}, {"steps": 40}, {"eval_every": "null"}):
        assert length(**changed) > length(), changed


def test_the_longest_run_of_a_sweep_starts_first(tmp_path):
    found = configs("model=mlp", "steps=2,9,5", "jobs=1", "eval_every=1000", f"outputs={tmp_path}")
    items, begun = [Item(config, {}) for config in found], []

    def note(index, state, row, text):
        if state == "running" and row is None:
            begun.append(index)

    scheduler.train_all(items, note)
    assert begun == [1, 2, 0]
    assert [item.state for item in items] == ["finished"] * 3


def test_a_child_whose_parent_hears_no_more_ends_its_run_in_good_order(tmp_path):
    words = ("model=mlp", "steps=2", "eval_every=1000", f"outputs={tmp_path}")
    items = [Item(config, {}) for config in configs(*words)]
    orders, to_child = os.pipe()
    from_child, rows = os.pipe()
    Channel(-1, to_child).send({"train": [0]})
    os.close(to_child)
    os.close(from_child)
    assert pool._serve(items, 0, Channel(orders, rows)) == 0
    assert read_status(items[0].config.directory)["state"] == "finished"
