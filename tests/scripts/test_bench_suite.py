"""The benchmark suite: its loops compute what normbench does, its floors are checked."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).resolve().parents[2] / "scripts/bench"


@pytest.fixture(scope="module")
def bench():
    """Import modules of the suite by name."""
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module
    sys.path.remove(str(BENCH))
    for name in [each for each in sys.modules if each in NAMES or each.startswith("loops")]:
        del sys.modules[name]


NAMES = tuple(sorted(path.stem for path in BENCH.glob("*.py")))


@pytest.mark.parametrize("name", [each for each in NAMES if each != "run"])
def test_every_file_of_the_suite_can_be_run(bench, name):
    assert callable(bench(name).cases)


@pytest.mark.parametrize(
    ("model", "norm"), [("mlp", "bn"), ("mlp", "none"), ("cnn", "bn"), ("cnn", "gn")]
)
def test_every_loop_has_the_losses_of_normbench(bench, model, norm):
    step, start = bench("step"), bench("loops.start")
    words = [f"model={model}", f"norm={norm}", "batch=4", "data.train_size=2000"]
    config = start.configured(*words, f"steps={step.CHECKED}", "log_every=1")
    start.KEPT.clear()
    ours = step.losses(step.Ours(config))
    for kind in (step.Expert, step.ByHand):
        for form in step.FORMATS:
            theirs = step.losses(kind(start.Start.of(config), form))
            assert theirs == pytest.approx(ours, abs=step.TOLERANCE), (kind, form)
    start.KEPT.clear()


def test_the_tutorials_loop_has_the_losses_of_normbench(bench):
    step = bench("step")
    step.agree(step.as_tutorial, ["model=mlp", "norm=bn", "batch=8"])
    bench("loops.start").KEPT.clear()
    step.images.cache_clear()


def test_a_loop_that_computes_something_else_is_noticed(bench):
    step = bench("step")

    def wrong(start):
        with torch.no_grad():
            start.model[-1].bias.add_(torch.linspace(0, 1, 10))
        return step.Expert(start, torch.contiguous_format)

    with pytest.raises(AssertionError, match="the losses of the first steps differ by"):
        step.agree(wrong, ["model=mlp", "norm=bn", "batch=8"])
    bench("loops.start").KEPT.clear()


def test_figures_are_ratios_of_medians_held_against_their_floors(bench):
    run = bench("run")

    def told(*numbers):
        return iter(numbers).__next__

    gain = run.Case("gain", told(9, 1, 2, 3), told(9, 8, 6, 4), least=3.5, repeats=3)
    tax = run.Case("tax", told(9, 1, 2, 3), told(9, 2, 2, 2), most=1.1, repeats=3)
    once = run.Case("once", told(5), told(20), repeats=1, warm=False)
    found = [run.measure(case, 7) for case in (gain, tax, once)]
    assert [(each.value, each.passed) for each in found] == [(3, False), (1, True), (4, None)]


def test_check_fails_by_a_missed_floor_and_json_has_all_samples(bench, tmp_path, monkeypatch):
    run, plan = bench("run"), bench("plan")
    monkeypatch.setattr(plan, "cases", lambda quick: [run.Case("c", lambda: 2.0, below=1.0)])
    file = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["run.py", "plan", "--quick", "--json", str(file)])
    monkeypatch.setattr(run, "CORES", set())
    monkeypatch.setattr(run.os, "sched_setaffinity", lambda *_: None)
    monkeypatch.setattr(run, "max", lambda cores: 0, raising=False)
    assert run.main() == 0
    document = json.loads(file.read_text())
    assert document["figures"][0]["ours"] == [2.0] * 3 and document["machine"]["cpu"]
    sys.argv.append("--check")
    assert run.main() == 1


@pytest.mark.slow
def test_the_naive_sweep_trains_each_run_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, str(BENCH / "naive_sweep"), "mlp", "none", "16", "2", "320", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:4] for line in lines] == [["mlp", "none", "16", seed] for seed in "01"]
    assert all(0 < float(line[4]) < 1 for line in lines)
    assert not list(tmp_path.iterdir())


def test_the_sides_of_a_sweep_are_compared_by_accuracy(bench):
    sweep = bench("sweep")
    run = {"config": {"model": {"name": "mlp"}, "norm": {"name": "bn"}, "batch": 32}, "mean": 0.9}
    text = json.dumps({"runs": [run]})
    naive, ours = sweep.Side([], set()), sweep.Side([], set())
    naive.output, ours.output = "mlp bn 32 0 0.91\nmlp bn 32 1 0.93\n", text
    sweep.check(naive, ours)
    naive.output = "mlp bn 32 0 0.5\n"
    with pytest.raises(AssertionError, match=r"mlp bn 32: 0.500 and 0.900"):
        sweep.check(naive, ours)
