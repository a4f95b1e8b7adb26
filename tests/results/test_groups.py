"""Keys, labels and outcomes of runs."""

import math
from dataclasses import replace

import numpy as np
import pytest
from results.samples import SWEEP, further, run

from normbench.results import groups


def test_swept_keys_are_those_that_vary_in_the_order_asked_for():
    cells = [
        {"model": "mlp", "norm": norm, "norm.groups": 8, "batch": batch, "seed": seed}
        for norm in ("bn", "gn")
        for batch in (2, 32)
        for seed in (0, 1)
    ]
    assert groups.swept(cells) == ["norm", "batch"]
    assert groups.swept(cells, ["batch", "model", "norm", "seed", "lr"]) == ["batch", "norm"]


def test_an_option_that_only_some_cells_have_is_not_swept():
    assert groups.swept([{"norm": "bn"}, {"norm": "gn", "norm.groups": 8}]) == ["norm"]


def test_lists_and_numbers_count_by_how_they_are_written():
    assert groups.swept([{"shape": [1, 2]}, {"shape": [1, 2]}, {"lr": 1.0}]) == []
    assert groups.swept([{"shape": [1, 2]}, {"shape": [2, 1]}]) == ["shape"]


def test_a_part_is_named_by_its_value_and_other_settings_by_their_last_word():
    assert groups.label("norm", "bn") == "bn"
    assert groups.label("optimizer.lr", 0.1) == "lr 0.1"
    assert groups.label("compile", True) == "compile true"
    assert groups.label("norm.eps", 1e-5, ["norm.eps", "optimizer.eps"]) == "norm.eps 1e-05"


def test_labels_of_cells_stand_below_each_other():
    cells = [{"norm": "bn", "batch": 2}, {"norm": "none", "batch": 32}]
    assert groups.labels(cells, ["norm", "batch"]) == ["bn    batch 2", "none  batch 32"]


def test_hostile_values_are_escaped_and_cut():
    assert groups.label("norm", "\x1b[31m\u202e\n") == "\\x1b[31m\\u202e\\n"
    assert len(groups.label("norm", "x" * 10**6)) == 80


def test_what_a_diverged_run_had_reached_does_not_count():
    result = run(0.7, "diverged", classes=4)
    assert result.outcome("test/accuracy").value == 0.25
    assert result.outcome("test/loss").value == math.log(4)
    assert result.outcome("gap/accuracy").value == 0.0


def test_a_diverged_run_has_the_loss_of_guessing_by_the_shares_of_the_classes():
    shares = np.array([0.9, 0.1])
    entropy = float(-(shares * np.log(shares)).sum())
    result = replace(run(0.7, "diverged", classes=2), final={"chance/val_loss": entropy})
    assert result.outcome("val/loss").value == entropy
    assert result.outcome("test/loss").value == math.log(2)  # nothing is known of this set


def test_runs_that_all_diverged_have_no_mean_gap():
    ends = [run(None, "diverged", seed=seed, norm="bn") for seed in (0, 1)]
    assert groups.Group(ends, "gap/accuracy").mean is None
    assert groups.Group(ends, "test/accuracy").mean == 0.1


def test_further_tests_are_listed_by_name_and_number():
    found = [
        further({"blank12": 0.5, "blank3": 0.6, "contrast*2": 0.1}),
        further({"blank0": 0.9, "contrast*0.5": 0.4}),
    ]
    names = ["blank0", "blank3", "blank12", "contrast*0.5", "contrast*2"]
    assert groups.further_tests(found) == [f"test/accuracy/{name}" for name in names]
    assert groups.further_tests(SWEEP) == []


def test_a_diverged_run_counts_at_chance_in_further_tests_too():
    found = run(None, "diverged", norm="bn", classes=10)
    assert found.outcome("test/accuracy/invert").value == 0.1
    assert found.outcome("test/loss/invert").value == pytest.approx(math.log(10))
