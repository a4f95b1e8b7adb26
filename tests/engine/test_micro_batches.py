"""Settings of a run that a norm depends on: `norm_batch`, `accumulate`, and what it warns of."""

from __future__ import annotations

import pytest
from engine.test_train import MAPS, config
from torch import nn

from normbench import norms
from normbench.cli.main import main
from normbench.norms._base import Running
from normbench.runs import build
from normbench.runs.check import check_fit
from normbench.runs.job import Job
from normbench.runs.reader import read_status
from normbench.runs.run import run

CUT = ("bn", "brn", "evalnorm", "bin", "evonorm_b0")  # take parts of a batch
WHOLE = ("mean", "cmbn", "wn+mean")  # take the batches of several workers, never a part
OTHERS = ("gn", "none", "syncbn", "ghostbn", "switch", "cbn", "mabn", "iternorm", "dbn", "ws+gn")


def refused(capsys, *words):
    assert main(["train", *MAPS, *words]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("name", CUT)
def test_norm_batch_sets_the_samples_behind_a_statistic(name):
    chosen = config("model=cnn", f"norm={name}", "batch=32", "norm_batch=4", "steps=2")
    assert chosen.stat_batch == 4
    job = Job(chosen)
    layers = [each for each in job.model.modules() if isinstance(each, Running)]
    assert layers and all(each.norm_batch == 4 for each in layers)
    assert list(job.rows())[-1].values["state"] == "finished"


@pytest.mark.parametrize("name", WHOLE)
def test_norms_that_cut_no_batch_refuse_a_part_of_it_and_take_the_whole(name, capsys):
    said = refused(capsys, f"norm={name}", "batch=32", "norm_batch=4")
    assert said.count("\n") == 2
    assert "norm_batch=4: " in said and "does not cut a worker's 32 samples into chunks" in said
    for size in ("global", 32):
        chosen = config("model=cnn", f"norm={name}", "batch=32", f"norm_batch={size}", "steps=2")
        assert chosen.stat_batch == 32
        assert list(Job(chosen).rows())[-1].values["state"] == "finished"


@pytest.mark.parametrize("name", OTHERS)
def test_other_norms_refuse_norm_batch(name, capsys):
    assert refused(capsys, f"norm={name}", "norm_batch=4") == (
        f"normbench: error: norm_batch=4: norm={name} takes no statistics over other sets of "
        "samples\n  try: norm_batch=worker\n"
    )


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (("norm=bn", "norm_batch=64", "batch=32"), "norm_batch=32"),
        (("norm=bn", "norm.norm_batch=33", "batch=64", "accumulate=2"), "norm.norm_batch=32"),
        (("norm=wn+mean", "norm.mean.norm_batch=64", "batch=32"), "norm.mean.norm_batch=32"),
    ],
)
def test_a_statistic_over_more_samples_than_there_are_is_refused(words, fix, capsys):
    key, size = next(word for word in words if "norm_batch" in word).split("=")
    assert refused(capsys, *words) == (
        f"normbench: error: {key}={size}: cannot be made up from 1 worker with 32 examples\n"
        f"  try: {fix}\n"
    )


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_the_window_of_cmbn_follows_accumulate(accumulate):
    chosen = config("norm=cmbn", "batch=32", f"accumulate={accumulate}", "steps=3")
    assert chosen.norm["window"] == accumulate
    assert chosen.stat_batch == 32 // accumulate
    job = Job(chosen)
    list(job.rows())
    windows = {(each.window, int(each.steps)) for each in job.model.modules() if running(each)}
    assert windows == {(accumulate, 3 * accumulate)}


def running(module):
    return isinstance(module, Running)


@pytest.mark.parametrize("given", [("norm.window=3", "accumulate=2"), ("norm.window=3",)])
def test_another_window_than_accumulate_is_refused_before_anything_is_created(
    given, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    count = 2 if len(given) == 2 else 1
    assert refused(capsys, "norm=cmbn", *given) == (
        "normbench: error: norm.window=3: does not divide the run's micro-batches per step, "
        f"accumulate={count}\n  try: norm.window={count}\n"
    )
    assert not list(tmp_path.iterdir())


# ---- warnings ----


@pytest.mark.parametrize(
    ("words", "subjects"),
    [
        ("norm=cmbn", ["accumulate=1"]),
        ("norm=cmbn accumulate=2", []),
        ("norm=frn model=mlp", ["norm=frn"]),
        ("norm=frn model=rnn", ["norm=frn"]),
        ("norm=frn model=cnn", []),
        ("norm=ws", ["norm=ws"]),
        ("norm=ws+gn", []),
        ("norm=bn", []),
    ],
)
def test_what_works_but_may_not_be_meant_is_warned_of(words, subjects):
    chosen = config(*words.split())
    about = build.data(chosen)
    found = check_fit(chosen, about.shape, 10).warnings
    assert [each.subject for each in found] == subjects
    assert Job(chosen).train_step.norm.warnings(build.model(chosen, about.shape, 10)) == found


@pytest.mark.parametrize(("name", "warned"), [("ws+evonorm_s0", 0), ("gn+ws", 0), ("ws+agc", 1)])
def test_ws_wants_a_norm_of_features_in_its_chain(name, warned):
    assert len(norms.create(name).warnings(nn.Identity())) == warned


def test_warnings_stand_before_the_plan_and_in_the_status_of_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *MAPS, "norm=ws", "seeds=2", "dry_run=true"]) == 0
    text = (
        "norm=ws: no norm follows it: activations grow with every layer, a residual net diverges\n"
        "  try: norm=ws+gn"
    )
    assert capsys.readouterr().err == f"normbench: warning: {text}\n"
    chosen = config("norm=ws", "steps=2", "tb=false", f"outputs={tmp_path}")
    run(chosen)
    assert read_status(chosen.directory)["warnings"] == [text]
