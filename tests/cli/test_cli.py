"""Whole commands, each in a process of its own, as a user starts them."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from commands import LIMIT_S, document, normbench, started, until

from normbench.cli.main import VERBS, main

TINY = ["data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "device=cpu"]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def swept(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A sweep of two norms, two batches and three seeds."""
    place = tmp_path_factory.mktemp("sweep")
    words = ["train", "-m", *TINY, "norm=bn,gn", "norm.affine=true", "batch=2,32", "seeds=3"]
    return place, normbench(*words, "steps=20", cwd=place)


def test_a_sweep_ends_with_a_table_of_means_and_failures(
    swept: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = swept
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split("   ")[0].strip() == "test accuracy, % by norm"
    assert "batch 2" in lines[0] and "batch 32" in lines[0]
    assert [line.split()[0] for line in lines[1:3]] == ["bn", "gn"]
    assert all(line.count("[") + line.count("/3 failed") == 2 for line in lines[1:3])
    assert "stuck at most 5 points above chance" in lines[-1]  # 20 steps are few


def test_a_sweep_leaves_its_runs_and_its_results(
    swept: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    place, _ = swept
    runs = sorted(path.name for path in (place / "outputs/runs").iterdir())
    assert ["-".join(name.split("-")[:4]) for name in runs] == [
        "mlp-width8-bn-b2",
        "mlp-width8-bn-b32",
        "mlp-width8-gn-b2",
        "mlp-width8-gn-b32",
    ]
    (folder,) = (place / "outputs/sweeps").iterdir()
    assert folder.name.startswith("norm-batch-")
    assert sorted(path.name for path in folder.iterdir()) == [
        "results.csv",
        "sweep.json",
        "table.md",
        "tensorboard",
    ]
    assert len((folder / "results.csv").read_text().splitlines()) == 13
    seed = place / "outputs/runs" / runs[0] / "seed0"
    assert {path.name for path in seed.iterdir() if not path.name.startswith("events")} == {
        ".lock",
        "config.yaml",
        "environment.json",
        "evaluation-own.json",
        "metrics.jsonl",
        "status.json",
        "timing.jsonl",
        "weights.safetensors",
    }


def test_the_same_sweep_again_trains_nothing_and_prints_the_same_table(
    swept: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    place, first = swept
    before = files(place)
    words = ["train", "-m", *TINY, "norm=bn,gn", "norm.affine=true", "batch=2,32", "seeds=3"]
    again = normbench(*words, "steps=20", cwd=place)
    assert again.returncode == 0
    assert again.stdout == first.stdout
    assert "12 finished already" in again.stderr
    assert files(place) == before


def test_more_seeds_train_only_the_new_ones(
    swept: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    place, _ = swept
    done = normbench("train", *TINY, "norm=gn", "batch=32", "steps=20", "seeds=4", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "plan: 4 runs, 3 finished already (force=true trains again)" in done.stderr
    (run,) = (place / "outputs/runs").glob("mlp-width8-gn-b32-*")
    attempts = [
        json.loads((run / f"seed{k}/status.json").read_text())["attempts"] for k in range(4)
    ]
    assert attempts == [1, 1, 1, 1]


def test_a_run_of_a_sweep_has_the_bytes_of_the_run_alone(
    swept: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    place, _ = swept
    done = normbench("train", *TINY, "norm=bn", "batch=2", "steps=20", "seed=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (alone,) = (tmp_path / "outputs/runs").glob("*/seed1")
    (among,) = (place / "outputs/runs").glob("mlp-width8-bn-b2-*/seed1")
    assert (alone / "metrics.jsonl").read_bytes() == (among / "metrics.jsonl").read_bytes()
    digests = [
        json.loads((each / "status.json").read_text())["state_sha256"] for each in (alone, among)
    ]
    assert digests[0] == digests[1]


def test_json_is_one_document_with_the_runs(
    swept: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    place, _ = swept
    found = document("train", *TINY, "norm=bn", "batch=32", "steps=200", "seeds=3", cwd=place)
    assert {"schema", "command", "runs"} == found.keys()
    (run,) = found["runs"]
    assert {"dir", "state", "config", "seeds", "mean", "interval"} <= run.keys()
    assert run["state"] == "finished"
    assert 0 <= run["mean"] <= 1
    assert run["interval"][0] <= run["mean"] <= run["interval"][1]


def test_too_few_seeds_are_said(tmp_path: Path) -> None:
    done = normbench("train", "-m", *TINY, "norm=none,bn", "seeds=2", "steps=5", cwd=tmp_path)
    assert "2 seeds: an interval needs 3" in done.stdout


def test_one_failing_run_does_not_stop_the_others(tmp_path: Path) -> None:
    """A diverging run under on_nan=fail is an error; its neighbours finish."""
    words = ["on_nan=fail", "optimizer.lr=0.01,1e20", "warmup=0", "steps=60", "norm=none"]
    done = normbench("train", "-m", *TINY, *words, cwd=tmp_path)
    assert done.returncode == 1
    states = sorted(json.loads(path.read_text())["state"] for path in tmp_path.rglob("status.json"))
    assert states == ["failed", "finished"]
    assert "failed" in done.stdout


def test_a_diverged_run_is_a_result(tmp_path: Path) -> None:
    done = normbench(
        "train", *TINY, "optimizer.lr=1e20", "warmup=0", "steps=60", "norm=none", cwd=tmp_path
    )
    assert done.returncode == 0
    assert "diverged" in done.stdout
    (status,) = (json.loads(path.read_text()) for path in tmp_path.rglob("status.json"))
    assert status["state"] == "diverged"
    assert status["bad_step"] == 2
    for line in next(tmp_path.rglob("metrics.jsonl")).read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_dry_run_creates_nothing(tmp_path: Path) -> None:
    done = normbench("train", "-m", *TINY, "norm=bn,gn", "dry_run=true", cwd=tmp_path)
    assert done.returncode == 0
    assert "2 to train" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_skip_invalid_lists_what_does_not_apply(tmp_path: Path) -> None:
    words = ["norm=in,gn", "steps=5", "skip_invalid=true"]
    done = normbench("train", "-m", *TINY, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cells that do not apply: 1" in done.stderr
    assert "(N, C) has no positions to take statistics over" in done.stdout
    assert len(list(tmp_path.rglob("status.json"))) == 1


def test_a_long_run_does_not_hold_up_the_others(tmp_path: Path) -> None:
    words = ["batch=2", "steps=9000,5,6,7", "jobs=2", "norm=gn"]
    assert normbench("train", "-m", *TINY, *words, cwd=tmp_path).returncode == 0
    found = [json.loads(path.read_text()) for path in tmp_path.rglob("status.json")]
    times = {each["steps_total"]: (each["started_at"], each["finished_at"]) for each in found}
    assert max(times[steps][0] for steps in (5, 6, 7)) < times[9000][1]


def test_force_trains_again(tmp_path: Path) -> None:
    words = ["train", *TINY, "norm=gn", "steps=5"]
    normbench(*words, cwd=tmp_path)
    again = normbench(*words, cwd=tmp_path)
    assert "finished already" in again.stderr
    forced = normbench(*words, "force=true", cwd=tmp_path)
    assert forced.returncode == 0, forced.stderr
    (status,) = (json.loads(path.read_text()) for path in tmp_path.rglob("status.json"))
    assert status["attempts"] == 2


def test_quiet_says_the_result_only(tmp_path: Path) -> None:
    done = normbench("train", *TINY, "steps=5", "-q", cwd=tmp_path)
    assert done.stderr == ""
    assert "test accuracy" in done.stdout


def test_outputs_by_option_environment_and_setting(tmp_path: Path) -> None:
    words = ["train", *TINY, "steps=2", "norm=gn"]
    normbench(*words, "--outputs", "a b", cwd=tmp_path)
    normbench(*words, cwd=tmp_path, NORMBENCH_OUTPUTS="c")
    normbench(*words, "outputs=d", cwd=tmp_path, NORMBENCH_OUTPUTS="c2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b", "c", "d"]


def test_config_dir_with_the_user_s_own_norm_file(tmp_path: Path) -> None:
    (tmp_path / "mine/norm").mkdir(parents=True)
    (tmp_path / "mine/norm/gn4.yaml").write_text("defaults: [gn, _self_]\ngroups: 4\n")
    words = ["train", *TINY, "norm=gn4", "steps=2", "--config-dir", "mine"]
    done = normbench(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "gn(groups=4)" in done.stderr


@pytest.mark.parametrize(
    ("sent", "code", "reason"), [(signal.SIGINT, 130, "sigint"), (signal.SIGTERM, 143, "sigterm")]
)
def test_a_signal_ends_a_run_with_its_code_and_state(
    sent: signal.Signals, code: int, reason: str, tmp_path: Path
) -> None:
    words = [*TINY, "batch=2", "steps=2000000", "eval_every=1"]
    process = started("train", *words, cwd=tmp_path)
    await_rows(tmp_path, 1)
    process.send_signal(sent)
    assert process.wait(LIMIT_S) == code
    (status,) = (json.loads(path.read_text()) for path in tmp_path.rglob("status.json"))
    assert (status["state"], status["reason"]) == ("interrupted", reason)


def test_a_run_in_use_is_refused_and_not_disturbed(tmp_path: Path) -> None:
    words = ["train", *TINY, "batch=2", "steps=2000000", "eval_every=1"]
    first = started(*words, cwd=tmp_path)
    await_rows(tmp_path, 1)
    second = normbench(*words, cwd=tmp_path)
    assert second.returncode == 3
    assert f"is in use by process {first.pid}" in second.stderr
    assert second.stdout == ""
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert first.wait(LIMIT_S) == 143


def test_an_output_folder_below_a_file_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = normbench("train", *TINY, "steps=5", "outputs=file/below", cwd=tmp_path)
    assert done.returncode == 4
    *_, error, fix = done.stderr.splitlines()
    assert error.startswith("normbench: error: ") and "cannot be written: not a dir" in error
    assert fix.startswith("  try: outputs=DIR")
    assert "Error executing job" not in done.stderr  # Hydra's own line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_signal_ends_a_sweep_and_all_its_children(tmp_path: Path) -> None:
    words = [*TINY, "batch=2", "norm=bn,gn,none", "steps=2000000", "eval_every=1", "jobs=2"]
    process = started("train", "-m", *words, cwd=tmp_path, session=True)
    await_rows(tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 143
    found = subprocess.run(
        ["ps", "-s", str(process.pid), "-o", "pid="], capture_output=True, check=False
    )
    assert found.stdout.split() == []
    states = [json.loads(path.read_text())["state"] for path in tmp_path.rglob("status.json")]
    assert states == ["interrupted", "interrupted"]


def await_rows(place: Path, runs: int) -> None:
    """Wait until so many runs have written a training row."""

    def begun() -> bool:
        texts = [path.read_text() for path in place.rglob("metrics.jsonl")]
        return sum('"kind": "train"' in text for text in texts) >= runs

    until(begun)


def test_an_interrupted_run_starts_over_to_the_same_bytes(tmp_path: Path) -> None:
    words = ["train", *TINY, "batch=2", "steps=3000", "norm=bn", "eval_every=1"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    normbench(*words, "--outputs", str(whole), cwd=tmp_path)
    process = started(*words, "--outputs", str(broken))
    await_rows(broken, 1)
    process.kill()
    process.wait()
    assert normbench(*words, "--outputs", str(broken), cwd=tmp_path).returncode == 0
    first, second = (next(each.rglob("metrics.jsonl")).read_bytes() for each in (whole, broken))
    assert first == second


def test_summary_counts_the_parameters_of_blog6(tmp_path: Path) -> None:
    for norm, count in (("none", 48_842), ("bn", 49_322)):
        found = document("summary", "model=blog6", "bias=on", f"norm={norm}", cwd=tmp_path)
        assert found["trainable"] == count
    assert found["norm"] == 480
    assert found["buffers"] == 486
    assert {
        "schema",
        "command",
        "config",
        "rows",
        "trainable",
        "norm",
        "buffers",
        "without",
    } == set(found)


def test_list_gives_every_part_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("norms", "inits", "models", "data", "optimizers"):
        assert main(["list", kind, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert {"schema", "command", "kind", "parts"} == found.keys()
        assert all(
            {"name", "description", "options", "facts", "doc"} <= each.keys()
            for each in found["parts"]
        )


def test_data_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (mnist,) = [each for each in found["sets"] if each["name"] == "mnist"]
    assert mnist["images"] == 70_000
    assert mnist["split"] == [55_000, 5_000, 10_000]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert f"normbench {verb} " in capsys.readouterr().out.split("examples:")[1]


def test_no_words_show_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "normbench train norm=gn batch=2" in capsys.readouterr().out


def test_the_composed_configuration_is_printed(tmp_path: Path) -> None:
    done = normbench("train", "--cfg", "job", "norm=gn", "--package", "norm", cwd=tmp_path)
    assert done.returncode == 0
    assert "groups: null" in done.stdout
    assert list(tmp_path.iterdir()) == []
