"""Documents and CSV of runs, by their text."""

import csv
import io
import math
from dataclasses import replace

import pytest
from results.samples import BN2, GN2, SWEEP, further, run, seeded

from normbench.results import compare, export
from normbench.results.groups import Result


def test_csv_has_a_line_per_run_in_the_order_given_with_plain_numbers_and_cost():
    results = [run(0.958, norm="gn", batch=2, seed=1), run(0.1, norm="bn", batch=2, seed=0)]
    cost = {"steps": 30, "examples": 60, "train_s": 1.5, "cpu_s": 1.25, "parameters": 79510}
    results[0] = replace(results[0], **cost)
    assert export.csv(results, ["norm", "batch"]) == (
        "run,norm,batch,seed,state,outcome,steps,examples,seconds,cpu_seconds,"
        "parameters,gap/accuracy,test/accuracy,message\n"
        "gn-2/seed1,gn,2,1,finished,trained,30,60,1.5,1.25,79510,0.0,0.958,\n"
        "bn-2/seed0,bn,2,0,finished,stuck,0,0,,,,0.0,0.1,\n"
    )


@pytest.mark.parametrize("root", ["outputs", "/elsewhere/with space"])
def test_csv_does_not_depend_on_where_the_runs_lie(root):
    result = Result(f"{root}/runs/bn-b2-3f9c/seed0", {"seed": 0}, "finished", {})
    assert export.csv([result], []).splitlines()[1] == "bn-b2-3f9c/seed0,0,finished,,0,0,,,,"


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@sum", "-1e", "+1+1", "-inf"])
def test_csv_cells_are_never_formulas(text):
    line = export.csv([run(0.5, message=text, norm=text)], ["norm"]).splitlines()[1]
    cells = next(csv.reader(io.StringIO(line)))
    assert cells[1] == cells[-1] == f"'{text}"


@pytest.mark.parametrize("value, text", [(-0.5, "-0.5"), (-1e-07, "-1e-07"), ("-3", "-3")])
def test_csv_leaves_negative_numbers_alone(value, text):
    assert export.csv([run(0.5, norm=value)], ["norm"]).splitlines()[1].split(",")[1] == text


def test_csv_writes_what_is_not_finite_as_nothing():
    result = Result("a/seed0", {"seed": 0}, "diverged", {"x": None, "y": math.nan, "z": 0.25})
    assert export.csv([result], []) == (
        "run,seed,state,outcome,steps,examples,seconds,cpu_seconds,parameters,x,y,z,message\n"
        "a/seed0,0,diverged,diverged,0,0,,,,,,0.25,\n"
    )


def test_csv_quotes_and_escapes_what_would_break_a_line():
    line = export.csv([run(0.5, norm='a,"b"\n\x1b')], ["norm"]).splitlines()[1]
    assert next(csv.reader(io.StringIO(line)))[1] == 'a,"b"\\n\\x1b'


def test_runs_are_documents_per_configuration_with_unrounded_numbers():
    (document,) = export.documents(seeded(GN2, norm="gn", batch=2))
    assert (document["dir"], document["state"]) == ("outputs/runs/gn-2", "finished")
    assert document["config"] == {"norm": "gn", "batch": 2}
    assert document["mean"] == pytest.approx(0.958, abs=1e-15)
    assert document["interval"] == pytest.approx([0.958 - 0.0099366, 0.958 + 0.0099366], abs=1e-6)
    assert document["seeds"][1] == {
        "seed": 1,
        "state": "finished",
        "outcome": "trained",
        "final": {"test/accuracy": 0.962, "gap/accuracy": 0.0},
        "train_s": None,
        "cpu_s": None,
        "message": None,
    }


def test_a_document_tells_the_state_most_in_need_of_being_seen():
    results = [run(0.5, seed=0), run(None, "failed", seed=1), run(None, "diverged", seed=2)]
    (document,) = export.documents(results)
    assert (document["state"], document["interval"]) == ("failed", None)


def test_further_tests_are_columns_of_the_csv():
    (line,) = csv.DictReader(io.StringIO(export.csv([further({"contrast*2": 0.5})], [])))
    assert line["test/accuracy/contrast*2"] == "0.5"


def test_a_comparison_is_a_document_with_both_p_values_and_what_is_missing():
    from scipy.stats import ttest_rel

    found = export.comparison(compare.layout(SWEEP, ["norm", "batch"]))
    assert (found["metric"], found["by"], found["baseline"]) == ("test/accuracy", "norm", "bn")
    first, second = found["blocks"]
    assert (first["at"], first["best"], first["better_than_every_other"]) == (
        {"batch": "2"},
        "gn",
        None,
    )
    assert (second["at"], second["best"]) == ({"batch": "32"}, "bn")
    bn, gn = first["arms"]
    assert (bn["norm"], bn["failed"], bn["runs"], bn["above_baseline"]) == ("bn", 0, 3, None)
    reference, above = ttest_rel(GN2, BN2), gn["above_baseline"]
    assert above["p_t"] == pytest.approx(reference.pvalue)
    assert above["interval"] == pytest.approx([*reference.confidence_interval()])
    assert (above["p_sign_flip"], above["n"], above["verdict"]) == (2 / 8, 3, "too few pairs")


def test_a_document_has_the_failures_apart_from_the_mean_and_in_it():
    runs = [*seeded([0.9, 0.8, 0.12], norm="bn"), run(0.7, "diverged", norm="bn", seed=3)]
    (document,) = export.documents(runs)
    assert (document["runs"], document["failed"]) == (4, 2)
    assert document["mean"] == pytest.approx(0.85)
    assert document["mean_failed_as_chance"] == pytest.approx((0.9 + 0.8 + 0.1 + 0.1) / 4)
    assert document["failure_bound"] == pytest.approx(0.902389, abs=1e-6)
    kinds = [seed["outcome"] for seed in document["seeds"]]
    assert kinds == ["trained", "trained", "stuck", "diverged"]
