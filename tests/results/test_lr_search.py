"""Learning rates chosen on the validation split: the rule by hand, and whole commands."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import yaml
from commands import normbench, started, until

from normbench.errors import Refused
from normbench.results import lr_search, stats
from normbench.results.groups import Result
from normbench.results.lr_search import Choice, Point
from normbench.settings.compose import Grid, loader
from normbench.settings.schema import Config

TINY = ["data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "device=cpu"]
GIVEN = (0.01, 0.1, 1.0)


def point(lr: float, *accuracies: float | None, chance: float = 0.1) -> Point:
    """A learning rate with the accuracies of its seeds, None for one that diverged."""
    return Point(lr, tuple(stats.outcome(accuracy, chance) for accuracy in accuracies))


# the rule


def test_the_score_is_the_mean_over_the_tuning_seeds() -> None:
    assert point(0.1, 0.9, 0.8, 0.7).score == pytest.approx(0.8)


def test_a_diverged_run_counts_as_chance_in_the_score() -> None:
    assert point(0.1, 0.9, None, chance=0.5).score == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("accuracies", "eligible"),
    [
        ((0.9, 0.9, 0.9), True),
        ((0.9, 0.9, None), False),
        ((0.9, 0.9, 0.15), False),
        ((0.9, 0.9, 0.151), True),
        ((0.9, 0.9, 0.02), False),
    ],
)
def test_one_run_that_diverges_or_ends_near_chance_makes_a_rate_ineligible(
    accuracies: Sequence[float | None], eligible: bool
) -> None:
    assert point(0.1, *accuracies).eligible == eligible


def test_chance_is_that_of_the_set() -> None:
    assert point(0.1, 0.06, chance=0.01).eligible is False
    assert point(0.1, 0.061, chance=0.01).eligible is True


def test_a_smaller_rate_is_taken_where_the_seeds_cannot_tell_it_from_the_best() -> None:
    """d = (.01, -.004, .003) has a mean of .003 and a standard error of .00404."""
    best, near = (0.95, 0.96, 0.97), (0.94, 0.964, 0.967)
    behind = numpy.subtract(best, near)
    assert behind.mean() < behind.std(ddof=1) / 3**0.5
    outside = [point(lr, 0.2, 0.2, 0.2) for lr in (0.01, 1.0)]
    grid = [outside[0], point(0.1, *near), point(0.3, *best), outside[1]]
    assert lr_search.choose(grid) == Choice(0.1)


def test_a_smaller_rate_that_is_behind_with_every_seed_is_not_taken() -> None:
    """It is half a point below, within what was once taken for the same."""
    grid = [point(lr, 0.2, 0.2) for lr in (0.01, 0.1, 0.3, 1.0)]
    grid[1], grid[2] = point(0.1, 0.945, 0.946), point(0.3, 0.950, 0.951)
    assert lr_search.choose(grid).lr == 0.3


@pytest.mark.parametrize("noise", [(0.0,), (0.001, -0.001, 0.0), (0.002, 0.0, -0.002)])
def test_a_difference_that_the_seeds_tell_keeps_the_smallest_rate_from_being_taken(
    noise: Sequence[float],
) -> None:
    scores = {0.03: 0.9895, 0.1: 0.9920, 0.3: 0.9940, 1.0: 0.9800}
    grid = [point(lr, *(score + x for x in noise)) for lr, score in scores.items()]
    assert lr_search.choose(grid) == Choice(0.3)


def test_one_standard_error_is_still_as_good() -> None:
    """d = (0, .02): mean and standard error are both .01."""
    grid = [point(0.01, 0.2, 0.2), point(0.1, 0.95, 0.93), point(0.3, 0.95, 0.95), point(1, 0.2)]
    assert lr_search.choose(grid).lr == 0.1


def test_an_ineligible_rate_is_not_taken_however_good() -> None:
    grid = [point(0.01, 0.5, 0.5), point(0.1, 0.6, 0.6), point(1.0, 0.99, None), point(3.0, 0.2)]
    assert lr_search.choose(grid) == Choice(0.1)


def test_an_ineligible_rate_is_no_best_to_be_near_to() -> None:
    """Beside 0.9950 at every seed, 0.9 would not be as good."""
    grid = [point(0.01, 0.2, 0.2), point(0.1, 0.9, 0.9), point(1.0, 0.99, None), point(3, 0.2, 0.2)]
    assert lr_search.choose(grid).lr == 0.1


def test_without_an_eligible_rate_the_best_mean_is_taken_and_said() -> None:
    grid = [point(0.01, 0.12, 0.12), point(0.1, 0.8, None), point(1.0, 0.9, 0.11), point(3.0, None)]
    assert lr_search.choose(grid) == Choice(1.0, ("unstable at every lr",))


def test_the_best_at_an_end_is_said() -> None:
    grid = [point(0.01, 0.3), point(0.1, 0.5), point(1.0, 0.6)]
    assert lr_search.choose(grid) == Choice(1.0, ("lr at grid edge",))


def test_a_best_at_an_end_is_said_though_a_smaller_rate_is_chosen() -> None:
    grid = [point(0.01, 0.3, 0.3), point(0.1, 0.6, 0.62), point(1.0, 0.65, 0.6)]
    assert lr_search.choose(grid) == Choice(0.1, ("lr at grid edge",))


def test_a_chosen_rate_at_an_end_is_said() -> None:
    grid = [point(0.01, 0.6, 0.62), point(0.1, 0.65, 0.6), point(1.0, 0.3, 0.3)]
    assert lr_search.choose(grid) == Choice(0.01, ("lr at grid edge",))


def test_a_chosen_rate_at_an_end_extends_the_grid() -> None:
    grid = [point(0.01, 0.6, 0.62), point(0.1, 0.65, 0.6), point(1.0, 0.3, 0.3)]
    assert lr_search.extension(grid, GIVEN) == 0.001
    wider = [point(0.001, 0.5, 0.5), *grid]
    assert lr_search.extension(wider, GIVEN) is None
    assert lr_search.choose(wider) == Choice(0.01)


def test_of_equal_scores_the_smallest_rate_is_the_best() -> None:
    assert lr_search.best([point(0.01, 0.6), point(0.1, 0.6), point(1.0, 0.6)]).lr == 0.01


# the extension of a grid


def test_a_best_inside_ends_the_grid() -> None:
    grid = [point(0.01, 0.3), point(0.1, 0.6), point(1.0, 0.5)]
    assert lr_search.extension(grid, GIVEN) is None


@pytest.mark.parametrize(
    ("accuracies", "next_lr"), [((0.3, 0.4, 0.5), 10), ((0.5, 0.4, 0.3), 1e-3)]
)
def test_a_best_at_an_end_extends_the_grid_by_its_ratio(
    accuracies: Sequence[float], next_lr: float
) -> None:
    grid = [point(lr, each) for lr, each in zip(GIVEN, accuracies, strict=True)]
    assert lr_search.extension(grid, GIVEN) == next_lr


def test_the_ratio_of_an_uneven_grid_is_its_mean() -> None:
    """(0.3 / 0.01) ** (1/3) = 3.107, and 0.3 * 3.107 = 0.932."""
    given = (0.01, 0.03, 0.1, 0.3)
    grid = [point(lr, each) for lr, each in zip(given, (0.2, 0.3, 0.4, 0.5), strict=True)]
    assert lr_search.extension(grid, given) == 0.93


def test_a_fine_grid_keeps_its_steps() -> None:
    """0.121 / 0.1 = 1.1 ** 2, so the next value is 0.1331, which two digits cannot say."""
    given = (0.1, 0.11, 0.121)
    grid = [point(lr, each) for lr, each in zip(given, (0.3, 0.4, 0.5), strict=True)]
    assert lr_search.extension(grid, given) == pytest.approx(0.1331)


def test_a_run_that_diverges_beyond_the_best_ends_the_extension() -> None:
    grid = [point(0.01, 0.3), point(0.1, 0.4), point(1.0, 0.5), point(10.0, None)]
    assert lr_search.extension(grid, GIVEN) is None
    assert lr_search.choose(grid) == Choice(1.0)


def test_three_extensions_are_the_most() -> None:
    lrs = (*GIVEN, 10.0, 100.0, 1000.0)
    grid = [point(lr, 0.3 + place / 10) for place, lr in enumerate(lrs)]
    assert lr_search.extension(grid[:5], GIVEN) == 1000.0
    assert lr_search.extension(grid, GIVEN) is None
    assert lr_search.choose(grid) == Choice(1000.0, ("lr at grid edge",))


def test_where_all_diverge_smaller_rates_are_tried() -> None:
    assert lr_search.extension([point(lr, None, None) for lr in GIVEN], GIVEN) == 0.001


# the table


def trial(lr: float, k: int, accuracy: float | None, state: str = "finished") -> Result:
    final = {} if accuracy is None else {"val/accuracy": accuracy}
    message = "no memory" if state == "failed" else None
    return Result(f"o/runs/mlp-{lr}/tune{k}", {"norm": "bn"}, state, final, message)


def graded(name: str, choice: Choice | None, last: str = "diverged") -> lr_search.LRSearch:
    runs = {
        0.01: [trial(0.01, 0, 0.11), trial(0.01, 1, 0.3)],
        0.1: [trial(0.1, 0, 0.5), trial(0.1, 1, 0.6)],
        1.0: [trial(1.0, 0, 0.7), trial(1.0, 1, None, last)],
    }
    return lr_search.LRSearch(name, {"norm": name, "seeds": "3"}, runs, choice)


def test_the_table_shows_every_rate_and_why_it_is_not_chosen() -> None:
    table = lr_search.table([graded("bn", Choice(0.1)), graded("gn", None, "failed")])
    assert table.head == ("", "0.01", "0.1", "1")
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["bn", "20.50 c", "55.00 *", "40.00 d"],
        ["gn", "20.50 c", "55.00", "failed"],
    ]
    assert table.notes == (
        "* chosen: the smallest lr within one standard error of the best among those without "
        "c or d",
        "c: a run ended within 5 points of chance",
        "d: a run diverged, which counts as chance",
        "mean of 2 tuning seeds; lr is optimizer.lr, before lr_rule",
        "gn: failed: lr 1, tune seed 1: no memory",
    )


def test_the_table_says_that_a_rate_is_at_the_edge_or_unstable() -> None:
    choice = Choice(1.0, ("unstable at every lr", "lr at grid edge"))
    table = lr_search.table([graded("bn", choice)])
    assert table.rows[0][3].text == "40.00 d*"
    assert table.notes[-2:] == ("bn: unstable at every lr", "bn: lr at grid edge")


def test_the_csv_has_every_run_of_the_grid() -> None:
    lines = list(csv.DictReader(io.StringIO(lr_search.csv([graded("bn", Choice(0.1))], ["norm"]))))
    keys = ("norm", "optimizer.lr", "tune_seed", "state", "val/accuracy", "eligible", "chosen")
    assert [[line[key] for key in keys] for line in lines] == [
        ["bn", "0.01", "0", "finished", "0.11", "false", "false"],
        ["bn", "0.01", "1", "finished", "0.3", "false", "false"],
        ["bn", "0.1", "0", "finished", "0.5", "true", "true"],
        ["bn", "0.1", "1", "finished", "0.6", "true", "true"],
        ["bn", "1.0", "0", "finished", "0.7", "false", "false"],
        ["bn", "1.0", "1", "diverged", "", "false", "false"],
    ]


def test_the_document_has_the_choice_and_the_grid() -> None:
    found: Any = lr_search.document(graded("bn", Choice(0.1, ("lr at grid edge",))))
    assert found["config"] == {"norm": "bn"}
    assert (found["lr"], found["notes"]) == (0.1, ["lr at grid edge"])
    assert [each["lr"] for each in found["grid"]] == [0.01, 0.1, 1.0]
    assert found["grid"][1]["mean"] == pytest.approx(0.55)
    assert [each["eligible"] for each in found["grid"]] == [False, True, False]
    assert [each["seed"] for each in found["grid"][1]["seeds"]] == [0, 1]


# settings


def cells(*words: str, multirun: bool = False) -> list[Config]:
    found = Grid(loader()).cells([*TINY, *words], multirun)
    return [cell.config for cell in found if cell.config]


def refused(*words: str, multirun: bool = False) -> str:
    with pytest.raises(Refused) as caught:
        cells(*words, multirun=multirun)
    return str(caught.value)


def test_the_usual_grid_is_around_the_rate_of_the_optimizer() -> None:
    (sgd,) = cells("tune=lr")
    (adam,) = cells("tune=lr", "optimizer=adam")
    assert sgd.tune_lrs == [0.0009, 0.003, 0.009, 0.03, 0.09]
    assert adam.tune_lrs == [0.00003, 0.0001, 0.0003, 0.001, 0.003]


def test_how_a_rate_was_chosen_is_no_part_of_a_run_s_name() -> None:
    (plain,) = cells("optimizer.lr=0.3")
    (tuned,) = cells("tune=lr", "tune_seeds=5", "tune_lrs=[0.1,0.3]")
    assert tuned.with_lr(0.3).directory == plain.directory


def test_a_tuning_run_lies_beside_the_results_with_a_seed_nobody_can_ask_for() -> None:
    (config,) = cells("tune=lr", "seed=7")
    runs = [config.tuning_run(0.03, k) for k in range(3)]
    assert [run.seed for run in runs] == [-1, -2, -3]
    assert [run.directory.name for run in runs] == ["tune0", "tune1", "tune2"]
    assert {run.directory.parent for run in runs} == {config.with_lr(0.03).directory.parent}
    assert "seed=-1: must be in 0 .. 2147483647" in refused("seed=-1")


def test_a_tuning_run_goes_to_the_end_and_may_diverge() -> None:
    (config,) = cells("tune=lr", "target=0.9", "on_nan=fail")
    run = config.tuning_run(0.03, 0)
    assert (run.target, run.on_nan) == (None, "record")


@pytest.mark.parametrize(
    ("words", "why", "fix"),
    [
        (
            "optimizer.lr=0.3,0.1",
            "optimizer.lr=0.1,0.3: tune=lr chooses it, for each configuration",
            "'tune_lrs=[0.1,0.3]'",
        ),
        (
            "optimizer.lr=0.1 tune_lrs=[0.1,0.2]",
            "optimizer.lr=0.1: tune=lr chooses it, for each configuration",
            "tune_lrs=[0.1,0.2] alone",
        ),
        (
            "tune_lrs=[0.1]",
            "tune_lrs=[0.1]: is not a grid: that takes two learning rates or more",
            "'tune_lrs=[0.003,0.01,0.03,0.1,0.3]'",
        ),
        (
            "tune_lrs=[0.3,0.1]",
            "tune_lrs=[0.3,0.1]: does not rise from each learning rate to the next",
            "'tune_lrs=[0.1,0.3]'",
        ),
        (
            "tune_lrs=[0.1,0.1,0.3]",
            "tune_lrs=[0.1,0.1,0.3]: does not rise from each learning rate to the next",
            "'tune_lrs=[0.1,0.3]'",
        ),
        (
            "tune_lrs=[-0.1,0.3]",
            "tune_lrs=[-0.1,0.3]: must be above 0 and at most 1e+30",
            "tune_lrs=null",
        ),
        ("tune_seeds=0", "tune_seeds=0: must be in 1 .. 100", "tune_seeds=1"),
    ],
)
def test_what_cannot_be_tuned_is_refused(words: str, why: str, fix: str) -> None:
    said = refused("tune=lr", *words.split(), multirun=True)
    assert said == f"normbench: error: {why}\n  try: {fix}"


def test_tuning_under_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers would each have to know when the first one has written what they choose by."""
    variables = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = refused("tune=lr", "gpus=2")
    assert said.splitlines() == [
        "normbench: error: tune=lr: needs a command that starts its workers itself, not torchrun",
        "  try: normbench train tune=lr gpus=2",
    ]


def test_a_fixed_rate_beside_a_tuned_one_is_no_mistake() -> None:
    words = ["optimizer.lr=0.1", "tune_lrs=[0.1,0.2]", "tune=none,lr"]
    assert [each.tune for each in cells(*words, multirun=True)] == ["none", "lr"]


# whole commands


def train(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return normbench("train", *TINY, *words, cwd=cwd)


COMMAND = ["-m", "norm=none,bn", "tune=lr", "tune_lrs=[0.03,0.3,1e20]", "tune_seeds=2", "seeds=2"]
SHORT = ["steps=30", "warmup=0", "log_every=10", "tb=false"]


def folders(place: Path, name: str) -> list[Path]:
    return sorted((place / "outputs/runs").glob(f"*/{name}*"))


def config_of(folder: Path) -> Any:
    return yaml.safe_load((folder / "config.yaml").read_text())


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def status_of(folder: Path) -> Any:
    return json.loads((folder / "status.json").read_text())


def grid_of(place: Path) -> list[dict[str, str]]:
    """The lines of the first `tune.csv` of the two norms."""
    (path,) = place.glob("outputs/sweeps/norm-*/tune.csv")
    return list(csv.DictReader(path.read_text().splitlines()))


def contents(place: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def tuned(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A sweep of two norms, tuned over three rates of which the last diverges."""
    place = tmp_path_factory.mktemp("tuned")
    return place, train(*COMMAND, *SHORT, cwd=place)


Tuned = tuple[Path, subprocess.CompletedProcess[str]]


def test_the_screen_ends_with_the_grid_and_the_results(tuned: Tuned) -> None:
    _, done = tuned
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["val", "%", "by", "lr", "0.03", "0.3", "1e+20"]
    assert [line[0] for line in lines[1:3]] == ["none", "bn"]
    assert all(line[-2:] == ["10.00", "d"] and "*" in line for line in lines[1:3])
    assert [line[0] for line in lines if line][-4:-1] == ["test", "none", "bn"]


def test_tuning_and_results_are_told_apart_on_the_way(tuned: Tuned) -> None:
    _, done = tuned
    lines = done.stderr.splitlines()
    assert lines[0] == "tuning: 12 runs"
    assert "plan: 4 runs" in lines
    assert sum("tune seed" in line for line in lines) == 12


def test_no_tuning_run_looks_at_the_test_set(tuned: Tuned) -> None:
    place, _ = tuned
    kinds = {row["kind"] for folder in folders(place, "tune") for row in rows_of(folder)}
    assert kinds == {"train", "val", "end"}
    assert not any(
        "test" in key for each in folders(place, "tune") for key in status_of(each)["final"]
    )


def test_a_job_of_a_tuning_run_does_not_have_the_test_set() -> None:
    from normbench.runs.job import Job

    (config,) = cells("tune=lr", "shifts=[invert]")
    assert Job(config.tuning_run(0.1, 0)).evaluator.tests == {}
    assert set(Job(config).evaluator.tests) == {"test", "invert"}


def test_the_results_have_the_chosen_rate_in_their_configuration(tuned: Tuned) -> None:
    place, _ = tuned
    (document,) = (json.loads(path.read_text()) for path in place.rglob("sweep.json"))
    assert (len(document["cells"]), len(document["tuning"])) == (4, 12)
    lines = grid_of(place)
    chosen = {
        line["norm"]: float(line["optimizer.lr"]) for line in lines if line["chosen"] == "true"
    }
    found = {}
    for folder in folders(place, "seed"):
        experiment = config_of(folder)["experiment"]
        found[experiment["norm"]["name"]] = experiment["optimizer"]["lr"]
    assert found == chosen
    assert set(chosen.values()) <= {0.03, 0.3}


def test_the_choice_is_that_of_the_rule_on_the_recorded_runs(tuned: Tuned) -> None:
    place, _ = tuned
    lines = grid_of(place)
    for norm in ("none", "bn"):
        scores: dict[float, list[float]] = {}
        for line in lines:
            if line["norm"] == norm and line["state"] == "finished":
                scores.setdefault(float(line["optimizer.lr"]), []).append(
                    float(line["val/accuracy"])
                )
        means = {lr: sum(each) / 2 for lr, each in scores.items() if min(each) > 0.15}
        best = max(means.values())
        expected = min(lr for lr, mean in means.items() if mean >= best - 0.005)
        (chosen,) = {
            float(line["optimizer.lr"])
            for line in lines
            if line["norm"] == norm and line["chosen"] == "true"
        }
        assert chosen == expected


def test_no_seed_of_the_tuning_is_one_of_the_results(tuned: Tuned) -> None:
    place, _ = tuned
    for name, seeds in (("tune", {-1, -2}), ("seed", {0, 1})):
        found = {config_of(each)["experiment"]["seed"] for each in folders(place, name)}
        assert found == seeds


def test_a_tuning_run_starts_from_other_weights_than_the_results(tuned: Tuned) -> None:
    place, _ = tuned
    for folder in folders(place, "seed"):
        beside = folder.parent / folder.name.replace("seed", "tune")
        assert rows_of(folder)[0]["val/loss"] != rows_of(beside)[0]["val/loss"]


def test_the_same_command_again_trains_nothing_and_prints_the_same(tuned: Tuned) -> None:
    place, first = tuned
    before = contents(place)
    again = train(*COMMAND, *SHORT, cwd=place)
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert "tuning: 12 runs, 12 finished already (force=true trains again)" in again.stderr
    assert contents(place) == before


def test_json_has_the_runs_and_the_tuning(tuned: Tuned) -> None:
    place, _ = tuned
    found = json.loads(train(*COMMAND, *SHORT, "--json", cwd=place).stdout)
    assert found.keys() == {"schema", "command", "runs", "comparison", "tuning"}
    assert [each["config"]["norm"] for each in found["tuning"]] == ["none", "bn"]
    for each, run in zip(found["tuning"], found["runs"], strict=True):
        assert each.keys() == {"config", "lr", "notes", "grid"}
        assert run["config"]["optimizer"]["lr"] == each["lr"]
        assert each["grid"][-1]["seeds"][0]["state"] == "diverged"


def test_dry_run_knows_the_choice_of_a_finished_tuning(tuned: Tuned) -> None:
    place, _ = tuned
    lines = train(*COMMAND, *SHORT, "dry_run=true", cwd=place).stdout.splitlines()
    assert lines[0] == "tuning: 12 runs, 0 to train"
    assert all("is chosen" in line for line in lines[1:3])
    assert lines[3] == "plan: 4 runs, 0 to train"


def test_dry_run_says_what_is_tuned_and_at_most_trained(tmp_path: Path) -> None:
    done = train(*COMMAND, *SHORT, "dry_run=true", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "tuning: 12 runs, 12 to train, at most 12 more where the best lr is at an end; "
        "then at most 4 runs with the chosen lr",
        "to tune           none   lr 0.03 0.3 1e+20   2 tuning seeds   steps 30",
        "to tune           bn     lr 0.03 0.3 1e+20   2 tuning seeds   steps 30",
        "plan: 0 runs, 0 to train",
    ]
    assert list(tmp_path.iterdir()) == []


def test_seeds_of_a_sweep_share_one_tuning(tuned: Tuned) -> None:
    place, _ = tuned
    words = [each for each in COMMAND if each != "seeds=2"]
    done = train(*words, *SHORT, "seed=0,1", "dry_run=true", cwd=place)
    assert done.stdout.splitlines()[0] == "tuning: 12 runs, 0 to train"
    assert "plan: 4 runs, 0 to train" in done.stdout


@pytest.mark.slow
def test_a_killed_command_ends_at_the_same_choice_and_bits(tuned: Tuned, tmp_path: Path) -> None:
    place, first = tuned
    process = started("train", *TINY, *COMMAND, *SHORT, cwd=tmp_path)
    until(lambda: len(list(tmp_path.rglob("metrics.jsonl"))) >= 4)
    process.kill()
    process.wait()
    assert len(list(tmp_path.rglob("status.json"))) < 16
    again = train(*COMMAND, *SHORT, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    for name in ("metrics.jsonl", "tune.csv", "table.md"):
        here = {path: data for path, data in contents(tmp_path).items() if path.endswith(name)}
        assert here == {path: data for path, data in contents(place).items() if path.endswith(name)}


@pytest.mark.slow
def test_force_tunes_again(tuned: Tuned, tmp_path: Path) -> None:
    place, first = tuned
    shutil.copytree(place / "outputs", tmp_path / "outputs")
    done = train(*COMMAND, *SHORT, "force=true", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, first.stdout)
    found = [*folders(tmp_path, "tune"), *folders(tmp_path, "seed")]
    assert [status_of(each)["attempts"] for each in found] == [2] * 16


def test_a_single_run_can_be_tuned_and_its_grid_extended(tmp_path: Path) -> None:
    words = ["norm=none", "tune=lr", "tune_lrs=[1e-6,1e-5]", "tune_seeds=1", "steps=5"]
    done = train(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(folders(tmp_path, "tune")) > 2
    assert "tuning: 1 run more: the best lr is at the end of 1 grid" in done.stderr
    assert "mlp  none: unstable at every lr" in done.stdout
    assert "test accuracy" in done.stdout
    assert next(tmp_path.rglob("tune.csv")).parent.name.startswith("tune-")


def test_a_fixed_and_a_tuned_rate_that_are_equal_have_a_row_each(tuned: Tuned) -> None:
    place, _ = tuned
    (line,) = {
        line["optimizer.lr"]
        for line in grid_of(place)
        if line["norm"] == "none" and line["chosen"] == "true"
    }
    words = [each for each in COMMAND if not each.startswith(("norm", "tune=lr"))]
    fixed = ["norm=none", "tune=none,lr", f"optimizer.lr={line}"]
    done = train(*words, *SHORT, *fixed, cwd=place)
    assert done.returncode == 0, done.stderr
    shown = [text.strip() for text in done.stdout.splitlines() if text.startswith(" tune ")]
    assert [text.split()[:2] for text in shown] == [["tune", "none"], ["tune", "lr"]]
    assert shown[0].split()[2:] == shown[1].split()[2:]


def test_a_failed_tuning_run_fails_its_configuration_only(tuned: Tuned, tmp_path: Path) -> None:
    place, _ = tuned
    (name,) = {
        each.parent.name
        for each in folders(place, "tune0")
        if "-bn-" in each.parent.name and config_of(each)["experiment"]["optimizer"]["lr"] == 0.03
    }
    lock = tmp_path / "outputs/runs" / name / "tune1/.lock"
    lock.mkdir(parents=True)
    done = train(*COMMAND, *SHORT, cwd=tmp_path)
    assert done.returncode == 1
    assert "bn: failed: lr 0.03, tune seed 1: outputs/runs/" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["bn", "failed"] in rows
    assert len(folders(tmp_path, "seed")) == 2


@pytest.mark.slow
def test_another_launcher_tunes_within_its_jobs(tuned: Tuned, tmp_path: Path) -> None:
    _, first = tuned
    done = train(*COMMAND, *SHORT, "hydra/launcher=basic", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == first.stdout
    assert os.listdir(tmp_path) == ["outputs"]


def test_the_report_of_a_tuned_sweep_has_no_column_of_rates(tuned: Tuned) -> None:
    place, _ = tuned
    (path,) = place.glob("outputs/sweeps/norm-*/table.md")
    text = path.read_text()
    assert "val % by lr" in text
    assert "| norm | 2 seeds |" in text
