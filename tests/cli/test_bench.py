"""What `normbench bench` times, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from normbench.cli import bench
from normbench.cli.completion import offers
from normbench.cli.main import main
from normbench.parts import registry
from normbench.runs import timing
from normbench.runs.job import Job
from normbench.settings import compose

TINY = ["data=synthetic", "data.shape=[1,8,8]", "device=cpu"]


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(timing, "REPEATS", 3)
    monkeypatch.setattr(timing, "LEAST_S", 0.0)
    monkeypatch.chdir(tmp_path)


def configured(*words):
    (cell,) = compose.Grid(compose.loader()).cells([*TINY, *words], False)
    return cell.config


def document(capsys, *words):
    assert main(["bench", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_layers_of_all_combinations_are_timed(capsys):
    found = document(capsys, *TINY, "norm=bn,gn", "batch=2,4", "--input", "8x5x5")
    assert found["command"] == "bench" and found["schema"] == 1
    rows = [(row["norm"], row["batch"], row["input"]) for row in found["rows"]]
    assert rows == [(norm, batch, [8, 5, 5]) for norm in ("bn", "gn") for batch in ("2", "4")]
    for row in found["rows"]:
        for figure in (row["forward_s"], row["both_s"]):
            assert len(figure["samples"]) == 3
            assert figure["median"] == sorted(figure["samples"])[1] > 0


def test_whole_steps_are_timed_where_a_model_is_named(capsys):
    words = [*TINY, "norm=none,gn", "model=mlp", "batch=2"]
    found = document(capsys, *words)
    assert [(row["model"], row["norm"]) for row in found["rows"]] == [
        ("mlp", "none"),
        ("mlp", "gn"),
    ]
    assert all(row["step_s"]["median"] > 0 for row in found["rows"])


def test_a_step_is_that_of_the_engine():
    config = configured("model=mlp", "batch=4")
    plain = Job(config)
    plain.evaluator.begin(0)
    batches = plain.train.epoch(0)
    next(batches)  # by which the kept bytes are counted
    for _ in range(timing.WARM + 2):
        plain.train_step(next(batches), config.lr)
    jobs = []
    made = Job.__init__

    def noted(job, config):
        made(job, config)
        jobs.append(job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "__init__", noted)
        step = timing.step(config).actions["step"]
    for _ in range(2):
        step()
    weights = {name: each for name, each in plain.model.named_parameters()}
    assert all(torch.equal(weights[name], each) for name, each in jobs[0].model.named_parameters())


def test_torchs_batch_norm_keeps_its_input_and_two_numbers_a_channel():
    kept = timing.layer(configured("batch=4", "norm=bn"), (8, 5, 5)).kept
    assert kept - 4 * 8 * 5 * 5 * 4 in range(3 * 8 * 4 + 1)


@pytest.mark.parametrize("name", sorted({*registry.names("norm")} - {"none", "agc"}))
def test_every_norm_has_a_layer_to_time(name):
    case = timing.layer(configured("batch=32", f"norm={name}"), (16, 5, 5))
    assert case.kept > 0
    for action in case.actions.values():
        action()


def test_the_ratio_is_to_the_first_norm_with_otherwise_equal_settings():
    def row(norm, batch, seconds):
        figure = timing.Figure((seconds, seconds, seconds))
        return bench.Row({"norm": norm, "batch": batch}, (), None, {"both": figure})

    rows = [row("bn", "2", 1.0), row("bn", "8", 10.0), row("gn", "2", 3.0), row("gn", "8", 5.0)]
    assert [bench._ratio(each, rows) for each in rows] == [1, 1, 3, 0.5]


def test_the_spread_is_half_the_distance_between_the_quartiles():
    figure = timing.Figure((1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0))
    assert (figure.median, figure.spread) == (4.0, 2.0)


def test_norms_that_bring_their_linear_layer_are_named(capsys):
    assert main(["bench", *TINY, "norm=bn,wn,ws+gn", "batch=2", "--input", "4x3x3"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].strip() == "with the linear layer whose weights they change: wn, ws+gn"


REFUSED = [
    ("norm=agc", "norm=agc: puts no layer into a net", "norm=agc model=cnn"),
    (
        "norm=in --input 16",
        "norm=in: (N, C) has no positions to take statistics over",
        "norm=ln or",
    ),
    ("norm=gn norm.groups=3", "norm.groups=3: 64 channels do not divide", "norm.groups="),
    ("norm=bn --input 3x", "--input 3x: is no shape CxHxW", "--input 64x28x28"),
    ("norm=bn --input 0x2x2", "--input 0x2x2: is no shape CxHxW", "--input 64x28x28"),
    ("norm=bn batch=500 --input 9999x999x9", "--input 9999x999x9: 500 of them have", "--input 64x"),
    ("model=mlp --input 16", "--input 16: is of layers, not of steps", "(without model=...)"),
    ("model=mlp norm=in", "norm=in: (N, C) has no positions", "norm=ln or model=cnn"),
    ("model=mlp norm=bn batch=1", "batch=1: norm=bn: input (1, 100) leaves 1 value", "batch=2"),
    ("norm=bn gpus=2", "gpus=2: only one worker is timed", "gpus=1"),
    ("norm=gm bach=2", "norm=gm: no norm has this name", "norm=gn"),
]


@pytest.mark.parametrize(("words", "text", "fix"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_be_timed_is_refused_with_a_way_out(words, text, fix, capsys):
    assert main(["bench", *TINY, *words.split()]) == 2
    out, error = capsys.readouterr()
    first, second = error.splitlines()[:2]
    assert out == "" and first.startswith(f"normbench: error: {text}")
    assert second.startswith("  try: ") and fix in second


def test_all_misfits_are_told_together_or_left_out(capsys):
    words = ["bench", *TINY, "norm=agc,bn,none", "--input", "4x3x3"]
    assert main(words) == 2
    assert capsys.readouterr().err.count("puts no layer into a net") == 2
    assert main([*words, "skip_invalid=true"]) == 0
    assert " bn " in capsys.readouterr().out


def test_settings_are_completed():
    assert "norm.groups=" in offers("normbench bench norm=gn norm.g")


def test_help_comes_without_torch():
    code = (
        "import sys; from normbench.cli.main import main\ntry: main(['bench', '--help'])\n"
        "except SystemExit: pass\nsys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "normbench bench norm=bn,gn,frn" in done.stdout
