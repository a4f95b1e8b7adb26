"""Sweepers and launchers of others: the same runs as our own, and trials that learn from them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest
import yaml
from commands import normbench

from normbench.settings.compose import Grid, loader
from normbench.sweeps import trials

TINY = ("data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "model.depth=2")
SMALL = (*TINY, "batch=32", "steps=12", "device=cpu", "tb=false")
OPTUNA = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2")


def needs(plugin: str, slow: bool = False) -> list[pytest.MarkDecorator]:
    missing = importlib.util.find_spec(f"hydra_plugins.{plugin}") is None
    marks = [pytest.mark.skipif(missing, reason=f"{plugin} is not installed")]
    return [*marks, pytest.mark.slow] if slow else marks


def train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return normbench("train", "-m", *SMALL, *words, cwd=folder)


def records(folder: Path) -> dict[str, bytes]:
    files = folder.glob("outputs/runs/*/seed0/metrics.jsonl")
    return {each.parts[-3]: each.read_bytes() for each in files}


LAUNCHERS = [
    pytest.param(["hydra/launcher=basic"], id="basic"),
    pytest.param(["hydra/launcher=basic", "hydra/sweeper=basic"], id="basic-basic"),
    pytest.param(
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        id="joblib",
        marks=needs("hydra_joblib_launcher", slow=True),
    ),
    pytest.param(
        [
            "hydra/launcher=ray",
            "+hydra.launcher.ray.init.num_cpus=2",
            "+hydra.launcher.ray.init.include_dashboard=false",
        ],
        id="ray",
        marks=needs("hydra_ray_launcher", slow=True),
    ),
]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_another_launcher_trains_the_same_runs(launcher: list[str], tmp_path: Path) -> None:
    words = ["norm=bn,gn", "norm.gn.groups=2,4", "norm_batch=worker"]
    done = train(tmp_path, *launcher, *words)
    assert done.returncode == 0, done.stderr
    arms = [line.split()[0] for line in done.stdout.splitlines()[1:4]]
    assert arms == ["bn", "gn(groups=2)", "gn(groups=4)"]
    before = records(tmp_path)
    assert train(tmp_path, *words).returncode == 0
    assert records(tmp_path) == before and len(before) == 3


def test_a_job_of_another_launcher_leaves_out_what_makes_no_difference(tmp_path: Path) -> None:
    words = ["hydra/launcher=basic", "hydra/sweeper=basic"]
    done = train(tmp_path, *words, "norm=bn,gn", "norm_batch=worker,8")
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path)) == 3


def test_a_failed_job_fails_the_command_with_each_sweeper(tmp_path: Path) -> None:
    for sweeper in ("basic", "normbench"):
        words = [f"hydra/sweeper={sweeper}", "hydra/launcher=basic", "norm=none,bn"]
        assert train(tmp_path, *words, "optimizer.lr=1e9", "on_nan=fail").returncode == 1


@pytest.mark.parametrize("words", [[], ["hydra.job.chdir=true"]])
def test_paths_are_those_of_the_command_in_jobs_as_well(words: list[str], tmp_path: Path) -> None:
    done = train(tmp_path, "hydra/launcher=basic", *words, "norm=bn,gn", "hydra.sweep.dir=swept")
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path)) == 2


needs_optuna = pytest.mark.usefixtures("_optuna")


@pytest.fixture
def _optuna() -> None:
    if importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        pytest.skip("the extra optuna is not installed")


@needs_optuna
def test_each_trial_of_optuna_trains_its_own_cell_and_returns_its_accuracy(tmp_path: Path) -> None:
    words = ["norm=bn,gn", "norm.gn.groups=2,4", "optimizer.lr=tag(log,interval(0.01,0.3))"]
    done = train(tmp_path, *OPTUNA, *words, "seeds=2", "--json")
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert len(read["trials"]) == 4
    best = max(trial["value"] for trial in read["trials"])
    assert read["best"]["value"] == best
    kept = yaml.safe_load((tmp_path / "outputs/optimization_results.yaml").read_text())
    assert kept["best_value"] == pytest.approx(best)
    status = tmp_path.glob("outputs/runs/*/seed*/status.json")
    finals = [json.loads(each.read_text())["final"]["val/accuracy"] for each in status]
    assert len(finals) == 8
    assert max(finals) >= best >= min(finals)


def test_the_table_of_trials_tells_what_was_searched_though_all_are_alike() -> None:
    grid = Grid(loader())
    cells = grid.cells([*SMALL, "norm=bn,gn"], multirun=True)
    made = trials.Trials(grid, "maximize", trials.searched(cells), [cells[1]] * 2, [0.5, None])
    assert [line[1].text for line in made.table().rows] == ["norm=gn"] * 2


@needs_optuna
def test_a_loss_is_minimized_and_a_trial_that_does_not_fit_is_passed_over(tmp_path: Path) -> None:
    # `in` needs maps; each part fits in one cell, and the sampler comes upon those that do not.
    words = ["model=cnn,mlp", "norm=bn,in", "optimize=val/loss", "steps=2"]
    tiny = [text for text in SMALL if not text.startswith(("model", "steps"))]
    sampler = ["hydra.sweeper.n_trials=6", "hydra.sweeper.sampler.seed=1"]
    done = normbench("train", "-m", *tiny, *OPTUNA[::2], *sampler, *words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    values = {tuple(trial["settings"][:2]): trial["value"] for trial in read["trials"]}
    assert values.pop(("model=mlp", "norm=in")) is None
    assert read["best"]["value"] == min(values.values())


@needs_optuna
def test_optuna_works_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "conf/experiment/search.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "# @package _global_\ndefaults: [{override /hydra/sweeper: optuna}]\n"
        "hydra: {mode: MULTIRUN, sweeper: {n_trials: 2, n_jobs: 1, params: "
        "{norm: 'bn,gn', optimizer.lr: 'interval(0.1, 0.2)'}}}\n"
    )
    done = train(tmp_path, "experiment=search", "--config-dir=conf", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["trials"]) == 2


@needs_optuna
@pytest.mark.parametrize("word", ["hydra.sweeper.n_trials=x", "hydra.sweeper.direction=up"])
def test_wrong_words_for_optuna_get_two_lines(word: str, tmp_path: Path) -> None:
    done = train(tmp_path, "hydra/sweeper=optuna", word, "norm=bn,gn")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "normbench: error: " in done.stderr
