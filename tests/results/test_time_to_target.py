"""A target accuracy ends a run; times to it are told, censored where it was not reached."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from commands import document
from engine.test_train import config, kinds, rows

from normbench.results import notes, time_to_target
from normbench.results.export import csv
from normbench.results.groups import Result
from normbench.results.seeds import seeds
from normbench.results.tables import Table, TableCell
from normbench.rows import Row
from normbench.runs.job import Job

EASY = ("norm=bn", "epochs=3", "batch=32", "eval_every=0.25")


def ended(*words: str) -> tuple[list[Row], Row]:
    found = rows(*EASY, *words)
    return found, found[-1]


def test_a_run_ends_at_the_first_validation_that_reaches_the_target() -> None:
    accuracies = {
        row.step: float(row.values["val/accuracy"])  # type: ignore[arg-type]
        for row in kinds(rows(*EASY), "val")
    }
    target = sorted(accuracies.values())[3]
    first = min(step for step, value in accuracies.items() if value >= target and step)
    assert 0 < first < max(accuracies)
    found, end = ended(f"target={target}")
    assert [row.step for row in kinds(found, "val")] == [k for k in accuracies if k <= first]
    assert end.values == {
        "state": "finished",
        "target/reached": 1,
        "target/step": first,
        "target/examples": 32 * first,
    }


def test_the_test_is_read_where_the_run_ends() -> None:
    found, end = ended("target=0.2")
    assert [row.step for row in kinds(found, "test")] == [end.step]


def test_up_to_its_end_a_run_with_a_target_is_the_run_without() -> None:
    whole = rows(*EASY)
    found, end = ended("target=0.2")
    assert 0 < end.step < whole[-1].step
    before = [row for row in found if row.step < end.step]
    assert before == [row for row in whole if row.step < end.step]


def test_steps_after_the_last_training_row_are_told_at_the_end() -> None:
    found, end = ended("target=0.2", "log_every=1000")
    assert [(row.kind, row.step) for row in found[-4:]] == [
        ("train", end.step),
        ("val", end.step),
        ("test", end.step),
        ("end", end.step),
    ]


def test_a_training_row_at_the_end_is_not_written_twice() -> None:
    found, end = ended("target=0.2", "log_every=1")
    assert [row.step for row in kinds(found, "train")] == list(range(1, end.step + 1))


def test_a_target_that_was_not_reached_is_null() -> None:
    found, end = ended("target=0.999")
    assert end.step == found[-2].step == 3 * (2000 // 32)
    assert end.values == {
        "state": "finished",
        "target/reached": 0,
        "target/step": None,
        "target/examples": None,
    }


def test_the_start_does_not_count() -> None:
    found, end = ended("target=0.0001")
    assert float(found[0].values["val/accuracy"]) >= 0.0001  # type: ignore[arg-type]
    assert end.values["target/step"] == kinds(found, "val")[1].step


def test_the_schedule_goes_over_all_steps() -> None:
    job = Job(config(*EASY, "target=0.2", "log_every=1"))
    found = list(job.rows())
    last = kinds(found, "train")[-1]
    full = kinds(rows(*EASY, "log_every=1"), "train")[last.step - 1]
    assert last.values["optim/lr"] == full.values["optim/lr"] != 0


def test_a_diverged_run_did_not_reach_its_target() -> None:
    end = rows("optimizer.lr=1e20", "norm=none", "steps=60", "warmup=0", "target=0.5")[-1].values
    assert (end["state"], end["target/reached"], end["target/step"]) == ("diverged", 0, None)


def test_what_is_not_finite_at_the_target_is_a_divergence() -> None:
    words = ("optimizer.lr=1e20", "norm=none", "warmup=0", "target=0.0001", "log_every=1000")
    end = rows(*words, "steps=60", "eval_every=0.2")[-1].values
    assert (end["state"], end["target/reached"]) == ("diverged", 0)


def reached(seen: int | None, seed: int = 0, norm: str = "bn", **changes: Any) -> Result:
    final = {"test/accuracy": 0.9, "target/examples": seen, "target/reached": int(seen is not None)}
    settings = {"norm": norm, "batch": 2, "seed": seed}
    given = {"state": "finished", "target": 0.97, "length": 5000, "train_s": 12.5, **changes}
    return Result(f"runs/{norm}-b2/seed{seed}", settings, final=final, **given)  # type: ignore[arg-type]


def texts(table: Table | None) -> list[list[str]]:
    assert table
    return [[cell.text for cell in row] for row in table.rows]


def test_the_table_has_mean_examples_and_seconds() -> None:
    results = [
        *(reached(seen, seed, train_s=seen / 1000) for seed, seen in enumerate((1000, 2000, 3000))),
        *(reached(seen, seed, "gn", train_s=30.0) for seed, seen in enumerate((400, 400, 400))),
    ]
    table = time_to_target.table(results, ["norm"])
    assert table
    assert (table.title, table.head) == ("to val 97 %", ("norm", "examples", "seconds"))
    assert texts(table) == [
        ["bn", "2,000 [  0, 4,484]", "2.00 [0.00, 4.48]"],
        ["gn", "  400 [400,   400]", "30.0 [30.0, 30.0]"],
    ]
    assert table.notes == (time_to_target.ENDS,)


def test_a_run_that_did_not_reach_its_target_makes_a_lower_bound() -> None:
    results = [reached(1000), reached(None, 1), reached(None, norm="gn")]
    table = time_to_target.table(results, ["norm"])
    assert texts(table) == [
        ["bn", "> 3,000 (1 of 2 reached it)", "> 12.5 (1 of 2 reached it)"],
        ["gn", "> 5,000", "> 12.5"],
    ]
    assert table and table.notes == (time_to_target.ENDS, notes.LATE)


def test_a_diverged_run_counts_with_the_length_it_should_have_had() -> None:
    table = time_to_target.table([reached(None, state="diverged", train_s=0.5)], ["norm"])
    assert texts(table) == [["bn", "> 5,000", "> 0.50"]]


def test_a_failed_run_says_so() -> None:
    table = time_to_target.table([reached(500), reached(None, norm="gn", state="failed")], ["norm"])
    assert table and table.rows[1][1:] == (
        TableCell("failed", "failed"),
        TableCell("failed", "failed"),
    )


def test_several_targets_have_a_row_each() -> None:
    results = [reached(500), reached(None, target=0.99)]
    settings = [{"norm": "bn", "target": result.target} for result in results]
    swept = [
        Result(each.directory, told, each.state, each.final, target=each.target, length=5000)
        for each, told in zip(results, settings, strict=True)
    ]
    table = time_to_target.table(swept, ["target"])
    assert table and table.title == "to the target"
    assert texts(table) == [
        ["target 0.97", "    500", "-"],
        ["target 0.99", "> 5,000", "-"],
    ]


def test_a_target_that_a_constant_answer_reaches_is_told() -> None:
    """Nine of ten validation images are of one class."""
    result = replace(reached(32, target=0.9), final={"target/examples": 32, "chance/val": 0.9})
    note = "the target is at most 5 points above chance, which a constant answer has: 90.0 %"
    table = time_to_target.table([result], ["norm"])
    assert table and table.notes[-1] == note
    assert time_to_target.beneath(seeds([result]), [result]).notes[-1] == note


def test_without_a_target_there_is_no_table() -> None:
    assert time_to_target.table([reached(None, target=None)], ["norm"]) is None
    assert time_to_target.document([reached(None, target=None)]) is None


def test_the_table_of_seeds_has_the_times_beneath() -> None:
    results = [reached(1000, 0, train_s=1.0), reached(2000, 1, train_s=2.0), reached(None, 2)]
    table = time_to_target.beneath(seeds(results), results)
    assert texts(table)[2:] == [
        ["examples to val 97 %", "1,000", "2,000", "> 5,000", "> 2,667", ""],
        ["seconds to val 97 %", "1.00", "2.00", "> 12.5", "> 5.17", ""],
    ]
    assert table.notes[-1] == notes.LATE


def test_many_seeds_are_told_by_the_shortest_and_the_longest_time() -> None:
    results = [reached(100 * (1 + seed) if seed < 5 else None, seed) for seed in range(6)]
    row = texts(time_to_target.beneath(seeds(results), results))[2]
    assert row == ["examples to val 97 %", "100", "> 5,000", "> 1,083", ""]


def test_the_document_says_how_many_reached_it() -> None:
    results = [reached(1000), reached(None, 1)]
    assert time_to_target.document(results) == {
        "accuracy": 0.97,
        "reached": 1,
        "examples": {"mean": 3000.0, "interval": None, "at_least": True},
        "seconds": {"mean": 12.5, "interval": None, "at_least": True},
    }


def test_the_csv_holds_examples_to_the_target_and_the_seconds_of_the_run() -> None:
    head, first, second = csv([reached(1000), reached(None, 1)], []).splitlines()
    assert head.split(",")[6:8] == ["seconds", "cpu_seconds"]
    assert head.split(",")[8:11] == ["parameters", "target/examples", "target/reached"]
    assert first.split(",")[6:11] == ["12.5", "", "", "1000", "1"]
    assert second.split(",")[6:11] == ["12.5", "", "", "", "0"]


def test_a_command_with_a_target_tells_the_times(tmp_path: Path) -> None:
    words = ["data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=16", "device=cpu"]
    more = ["norm=bn,none", "optimizer.lr=0.1,0.0001", "epochs=2", "target=0.3", "seeds=2"]
    runs = document("train", "-m", *words, *more, cwd=tmp_path)["runs"]
    assert [run["target"]["reached"] for run in runs] == [2, 0, 2, 0]
    assert [run["target"]["examples"]["at_least"] for run in runs] == [False, True, False, True]
    assert all(run["target"]["seconds"]["mean"] > 0 for run in runs)
    (table,) = tmp_path.rglob("table.md")
    assert "\nto val 30 %\n" in table.read_text()
    (status, *_) = (json.loads(path.read_text()) for path in tmp_path.rglob("status.json"))
    assert status["train_s"] > 0
