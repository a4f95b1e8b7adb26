"""`normbench compare` over runs, sweeps and filters: what it answers, its forms, its refusals."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import document, normbench

TINY = ["data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=32", "device=cpu"]
SHORT = ["train", "-m", *TINY, "epochs=2", "eval_every=0.5", "optimizer.lr=0.3", "tb=false"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two norms at two batch sizes with 6 seeds; one of them with other groups and more epochs."""
    place = tmp_path_factory.mktemp("compare")
    for words in ("norm=bn,gn batch=16,32 seeds=6", "norm=gn norm.groups=2 batch=16 seeds=6"):
        done = normbench(*SHORT, *words.split(), cwd=place)
        assert done.returncode == 0, done.stderr
    return place


def sweep(place: Path) -> Path:
    (folder,) = place.glob("outputs/sweeps/norm-batch-*")
    return folder


def test_a_sweep_has_the_table_of_its_command(place: Path) -> None:
    again = normbench(*SHORT, "norm=bn,gn", "batch=16,32", "seeds=6", cwd=place)
    table, _, _ = again.stdout.partition("\n\n")
    found = normbench("compare", str(sweep(place)), cwd=place)
    assert found.stdout.startswith(table)
    assert found.returncode == 0
    named = normbench("compare", sweep(place).name, cwd=place)
    assert named.stdout == found.stdout


def test_all_runs_are_arms_and_columns_by_what_differs(place: Path) -> None:
    found = document("compare", cwd=place)
    comparison = found["comparison"]
    assert (comparison["by"], comparison["baseline"]) == ("norm", "bn")
    at_16, at_32 = comparison["blocks"]
    assert (at_16["at"], at_32["at"]) == ({"batch": "16"}, {"batch": "32"})
    arms = [arm["norm"] for arm in at_16["arms"]]
    assert arms == ["bn", "gn", "gn(groups=2)"]
    assert [arm["runs"] for arm in at_32["arms"]] == [6, 6, 0]
    assert found["differing"] == {}
    assert len(found["runs"]) == 5


def test_rows_are_sorted_by_their_mean_place(place: Path) -> None:
    usual = document("compare", "--where", "norm=gn,bn", "batch=16,32", cwd=place)["comparison"]
    by_rank = document("compare", "--sort", cwd=place)["comparison"]
    places: dict[str, list[int]] = {}
    for block in usual["blocks"]:
        known = [arm for arm in block["arms"] if arm["mean"] is not None]
        for at, arm in enumerate(sorted(known, key=lambda arm: -arm["mean"])):
            places.setdefault(arm["norm"], []).append(at)
    expected = sorted(places, key=lambda norm: sum(places[norm]) / len(places[norm]))
    assert [arm["norm"] for arm in by_rank["blocks"][0]["arms"]] == expected
    assert by_rank["baseline"] == "bn"  # as without
    loss = document("compare", "--sort", "--metric", "loss", "batch=32", cwd=place)["comparison"]
    means = [arm["mean"] for arm in loss["blocks"][0]["arms"]]
    assert means == sorted(means)


def test_filters_choose_runs_in_the_order_typed(place: Path) -> None:
    found = document("compare", "--where", "norm=gn,bn", "batch=32,16", cwd=place)["comparison"]
    assert [block["at"]["batch"] for block in found["blocks"]] == ["32", "16"]
    assert found["blocks"][0]["arms"][0]["norm"].startswith("gn")
    same = document("compare", "norm=gn,bn", "batch=32,16", cwd=place)["comparison"]
    assert same == found


def test_another_key_and_baseline(place: Path) -> None:
    found = document("compare", "norm=bn", "--by", "batch", "--baseline", "32", cwd=place)
    assert (found["comparison"]["by"], found["comparison"]["baseline"]) == ("batch", "32")
    assert list(found["differing"]) == ["steps", "warmup"]
    same = document("compare", "norm=bn", "--baseline", "batch=32", cwd=place)
    assert same["comparison"] == found["comparison"]


def test_confounders_are_named(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "outputs", tmp_path / "outputs")
    words = ["norm=ln", "batch=32", "seeds=6", "optimizer.momentum=0.5"]
    assert normbench(*SHORT, *words, cwd=tmp_path).returncode == 0
    found = normbench("compare", "norm=bn,ln", "batch=32", cwd=tmp_path, FORCE_COLOR="1")
    line = found.stdout.splitlines()[-1]
    assert "differing besides norm: optimizer.momentum (bn 0.9; ln 0.5)" in line
    assert "\x1b[31m" in line


def test_one_seed_less_is_paired_without_it_and_left_out_if_asked(
    place: Path, tmp_path: Path
) -> None:
    shutil.copytree(place / "outputs", tmp_path / "outputs")
    (folder,) = tmp_path.glob("outputs/runs/mlp-width32-bn-b32-*")
    shutil.rmtree(folder / "seed3")
    words = ["compare", "norm=bn,gn", "batch=32"]
    found = document(*words, cwd=tmp_path)["comparison"]["blocks"][0]["arms"]
    assert [arm["runs"] for arm in found] == [5, 6]
    assert found[1]["above_baseline"]["n"] == 5
    common = document(*words, "--seeds-in-common", cwd=tmp_path)
    assert [arm["runs"] for arm in common["comparison"]["blocks"][0]["arms"]] == [5, 5]
    assert common["left_out"] == 1


@pytest.mark.parametrize(
    ("metric", "larger"),
    [
        ("val/accuracy", True),
        ("loss", False),
        ("auc", True),
        ("gap", None),
        ("speed", False),
        ("core_seconds", False),
    ],
)
def test_a_metric_by_its_tag_or_its_short_name(
    metric: str, larger: bool | None, place: Path
) -> None:
    more = ["--target", "0.15"] if metric == "core_seconds" else []
    found = document("compare", sweep(place).name, "--metric", metric, *more, cwd=place)
    for block in found["comparison"]["blocks"]:
        means = {arm["norm"]: arm["mean"] for arm in block["arms"]}
        best = {True: max, False: min}.get(larger)  # type: ignore[call-overload]
        assert block["best"] == (best(means, key=means.__getitem__) if best else None)


def test_the_area_and_the_time_are_those_of_the_curve(place: Path) -> None:
    import numpy as np
    from scipy.integrate import trapezoid  # numpy has it by another name before 2.0

    (folder,) = place.glob("outputs/runs/mlp-width32-bn-b32-*")
    rows = [json.loads(line) for line in (folder / "seed0/metrics.jsonl").read_text().splitlines()]
    curve = [(row["examples"], row["val/accuracy"]) for row in rows if row["kind"] == "val"]
    x, y = np.array(curve).T
    words = ["compare", "norm=bn,gn", "batch=32", "seed=0"]
    found = document(*words, "--metric", "auc", cwd=place)["comparison"]["blocks"][0]
    assert found["arms"][0]["mean"] == pytest.approx(trapezoid(y, x) / x[-1])
    target = sorted(y)[-2]
    first = next(examples for examples, accuracy in curve if accuracy >= target and examples)
    found = document(*words, "--metric", "examples", "--target", str(target), cwd=place)
    assert found["comparison"]["blocks"][0]["arms"][0]["mean"] == first
    found = document(*words, "--metric", "examples", "--target", "0.999", cwd=place)
    arm = found["comparison"]["blocks"][0]["arms"][0]
    assert (arm["mean"], arm["late"], arm["interval"]) == (x[-1], 1, None)


def test_the_forms_say_the_same(place: Path) -> None:
    words = ["compare", sweep(place).name]
    told = document(*words, cwd=place)["comparison"]["blocks"]
    rows = [*csv.DictReader(normbench(*words, "--csv", cwd=place).stdout.splitlines())]
    assert len(set(rows[0])) == 20  # no two columns of one name
    flat = [(block["at"]["batch"], arm) for block in told for arm in block["arms"]]
    assert [(row["batch"], row["norm"], float(row["mean"])) for row in rows] == [
        (batch, arm["norm"], arm["mean"]) for batch, arm in flat
    ]
    text = normbench(*words, cwd=place).stdout
    markdown = normbench(*words, "--markdown", cwd=place).stdout
    latex = normbench(*words, "--latex", cwd=place).stdout
    for sentence in text.splitlines()[-2:]:
        assert f"- {sentence.strip()}" in markdown.splitlines()
        assert rf"{{\footnotesize {sentence.strip()}\par}}" in latex.splitlines()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2


def test_nothing_heavy_is_imported_and_nothing_written(place: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    code = (
        "import sys; from normbench.cli.main import main; main(['compare']);"
        "print({'torch', 'scipy', 'hydra', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True)
    assert told.stderr.splitlines()[-1] == "set()"
    assert before == {path: path.stat().st_mtime_ns for path in place.rglob("*")}


@pytest.mark.parametrize(
    ("words", "why", "fix", "code"),
    [
        (
            "--by init",
            "--by init: does not vary among these runs; what varies is "
            "norm, batch, bias, norm.groups, steps, warmup",
            "--by norm",
            2,
        ),
        (
            "--metric tset/accuracy",
            "--metric tset/accuracy: was not recorded by these runs, which have "
            "gap/accuracy, test/accuracy, test/loss, val/accuracy, val/loss; short names are "
            "accuracy, loss, gap, gen_gap, train_acc, auc, examples, seconds, core_seconds, speed",
            "--metric test/accuracy",
            2,
        ),
        (
            "--metric examples",
            "--metric examples: needs an accuracy to be reached: these runs were trained without "
            "a target",
            "--metric examples --target 0.9",
            2,
        ),
        ("--target 95", "--target 95: is not an accuracy between 0 and 1", "--target 0.9", 2),
        ("norm=bm", "norm=bm: no run here has this value, but bn, gn", "--where norm=bn", 2),
        ("nrm=bn", "nrm: no run here has this setting", "norm=gn", 2),
        (
            "norm=bn batch=32",
            "compare: 6 runs of one kind: there is nothing to compare it with",
            "normbench compare    (which reads all of outputs/runs)",
            2,
        ),
        (
            "norm=bn,gn batch=32 norm.groups=2",
            "norm=bn,gn batch=32 norm.groups=2: no run has all of these, of the 30 that are here",
            "--where norm=bn,gn",
            2,
        ),
        (
            "--baseline bm",
            "--baseline bm: is not a value of norm here: bn, gn, gn(groups=2)",
            "--baseline bn",
            2,
        ),
        (
            "nowhere",
            "nowhere: is not here",
            "normbench compare    (which reads all of outputs/runs)",
            3,
        ),
        (
            "outputs/sweeps",
            "outputs/sweeps: is neither a run, a sweep nor a folder of outputs",
            "normbench compare    (which reads all of outputs/runs)",
            3,
        ),
        (
            "--where norm",
            "norm: is not of the form KEY=VALUE,VALUE",
            "--where norm=bn,gn batch=2",
            2,
        ),
        (
            "--csv --json",
            "--csv: is another form than --json: one of the two is written",
            "--json",
            2,
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(
    words: str, why: str, fix: str, code: int, place: Path
) -> None:
    done = normbench("compare", *words.split(), cwd=place)
    assert done.stderr == f"normbench: error: {why}\n  try: {fix}\n"
    assert (done.returncode, done.stdout) == (code, "")


def test_seeds_that_do_not_overlap_are_named(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "outputs", tmp_path / "outputs")
    (bn,) = tmp_path.glob("outputs/runs/mlp-width32-bn-b32-*")
    (gn,) = tmp_path.glob("outputs/runs/mlp-width32-gn-b32-*")
    for folder, seeds in ((bn, range(3)), (gn, range(3, 6))):
        for seed in seeds:
            shutil.rmtree(folder / f"seed{seed}")
    done = normbench("compare", "batch=32", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "normbench: error: seeds: none is in common, so nothing is paired: bn 3, 4, 5; gn 0, 1, 2\n"
        "  try: normbench train -m norm=bn,gn seeds=6    (equal seeds for all)\n"
    )


def test_a_copy_of_a_run_is_named_and_one_place_may_be_named_twice(
    place: Path, tmp_path: Path
) -> None:
    shutil.copytree(place / "outputs", tmp_path / "outputs")
    (bn,) = tmp_path.glob("outputs/runs/mlp-width32-bn-b32-*")
    twice = document("compare", sweep(tmp_path).name, f"outputs/runs/{bn.name}", cwd=tmp_path)
    assert len(twice["runs"]) == 4
    shutil.copytree(bn, bn.with_name("zz"))
    done = normbench("compare", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "normbench: error: outputs/runs/zz/seed0: has the settings and the seed of "
        f"outputs/runs/{bn.name}/seed0, too: only one can count\n"
        "  try: mv outputs/runs/zz .    (which takes it out of the runs)\n"
    )


def test_where_there_is_one_arm_in_all_a_training_is_suggested(place: Path, tmp_path: Path) -> None:
    (bn,) = place.glob("outputs/runs/mlp-width32-bn-b32-*")
    shutil.copytree(bn, tmp_path / "outputs" / "runs" / bn.name)
    done = normbench("compare", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("  try: normbench train -m norm=none,bn seeds=6\n")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("status.json", "{", "is not JSON"),
        ("config.yaml", "- 1", "does not consist of the two maps experiment and execution"),
        ("metrics.jsonl", "{}\n", "line 1 is not a row"),
        ("metrics.jsonl", "", "has been cut off"),
    ],
)
def test_damaged_files_are_named(
    name: str, content: str, why: str, place: Path, tmp_path: Path
) -> None:
    shutil.copytree(place / "outputs", tmp_path / "outputs")
    (folder,) = tmp_path.glob("outputs/runs/mlp-width32-bn-b32-*")
    (folder / "seed1" / name).write_text(content)
    done = normbench("compare", "--metric", "auc", cwd=tmp_path)
    assert done.returncode == 3
    first, second = done.stderr.splitlines()
    assert str(Path(folder.name, "seed1", name)) in first and why in first
    assert second.startswith("  try: rm -r ")


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"keys": "norm"},
        {"cells": [{"run": "../../etc/seed0", "settings": {}, "state": "finished"}]},
        {"cells": [{"run": "a/seed0", "state": "finished"}]},
        {"compare": 3},
    ],
)
def test_a_damaged_sweep_is_refused(change: dict[str, object], place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "outputs", tmp_path / "outputs")
    path = sweep(tmp_path) / "sweep.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    done = normbench("compare", sweep(tmp_path).name, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 2 and "sweep.json: " in done.stderr


def test_interactions_and_shares_of_the_variance(place: Path) -> None:
    words = ["compare", "outputs", "--where", "norm=bn,gn"]
    crossed = normbench(*words[:1], "norm", "x", "batch", sweep(place).name, cwd=place)
    assert "test accuracy, points: norm x batch" in crossed.stdout
    assert "gn above bn  batch 32 less batch 16" in crossed.stdout
    shared = normbench("compare", sweep(place).name, "--anova", "--failures=chance", cwd=place)
    told = document("compare", sweep(place).name, "--anova", "--failures=chance", cwd=place)
    assert sum(entry["share"] for entry in told["variance"]) == pytest.approx(1.0)
    told = document("compare", "norm", "x", "batch", sweep(place).name, cwd=place)
    (change,) = told["interaction"]
    assert (change["arm"], change["above"], change["at"]) == ("gn", "bn", "32")
    sources = [line.split("  ")[0].strip() for line in shared.stdout.splitlines()]
    first = sources.index("variance of test accuracy over 6 seeds")
    assert sources[first + 1 : first + 6] == ["norm", "batch", "norm x batch", "seed", "rest"]


@pytest.mark.parametrize(
    ("words", "why", "fix"),
    [
        ("x norm", "x: stands between two settings", "normbench compare norm x batch"),
        (
            "norm x batch --by batch",
            "x: stands between two settings",
            "normbench compare norm x batch",
        ),
        (
            "--anova",
            "--anova: needs runs that trained with common seeds for every combination of the "
            "settings",
            "--failures=chance    (or --where, for settings that have them)",
        ),
    ],
)
def test_what_has_no_interaction_is_refused(words: str, why: str, fix: str, place: Path) -> None:
    done = normbench("compare", *words.split(), cwd=place)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"normbench: error: {why}\n  try: {fix}\n"


def test_two_sweeps_stand_side_by_side(place: Path) -> None:
    folders = sorted(str(folder) for folder in place.glob("outputs/sweeps/*"))
    assert len(folders) == 2
    both = document("compare", *folders, cwd=place)["comparison"]
    assert both == document("compare", cwd=place)["comparison"]


def test_a_sweep_with_cells_that_failed_are_missing_or_do_not_apply(tmp_path: Path) -> None:
    words = ["norm=none,bn,in", "skip_invalid=true", "optimizer.lr=0.3,1000", "seeds=3", "batch=16"]
    usual = [word for word in SHORT if not word.startswith("optimizer.lr")]
    done = normbench(*usual, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/sweeps/*")
    shutil.rmtree(next(tmp_path.glob("outputs/runs/mlp-width32-bn-*/seed2")))
    found = normbench("compare", folder.name, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert lines[3].split() == ["in", *["does", "not", "apply"] * 2]
    assert "3/3 failed" in lines[1]
    assert "without result" in found.stdout
    assert " none: all 3 failed at lr 1000" in lines


def test_images_that_were_kept_are_read(place: Path) -> None:
    import base64

    import numpy as np

    found = normbench("compare", sweep(place).name, "--images", cwd=place)
    assert "test accuracy, %" in found.stdout and "McNemar" in found.stdout
    (path, *_) = sorted(place.glob("outputs/runs/mlp-width32-bn-b16-*/seed0/evaluation-own.json"))
    packed = base64.b64decode(json.loads(path.read_text())["right"][""])
    accuracy = json.loads((path.parent / "status.json").read_text())["final"]["test/accuracy"]
    assert np.unpackbits(np.frombuffer(packed, np.uint8))[:500].mean() == pytest.approx(accuracy)
    done = normbench("compare", sweep(place).name, "--images", "--metric", "loss", cwd=place)
    assert done.returncode == 2
    assert done.stderr == (
        "normbench: error: --images: none of these runs has kept which images it got right, by "
        "this metric\n  try: --images --metric test/accuracy\n"
    )


def test_the_runs_of_a_preset_are_those_that_it_would_train(tmp_path: Path) -> None:
    words = ["experiment=small_batch", *TINY, "data.train_size=400", "epochs=1", "tb=false"]
    words += ["norm=none,bn", "optimizer.lr=0.3", "seeds=2"]
    done = normbench("compare", *words, cwd=tmp_path)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first.endswith(": 8 of its 8 runs have not begun")
    assert second.startswith("  try: normbench train -m experiment=small_batch data=synthetic")
    assert normbench("train", *words, cwd=tmp_path).returncode == 0
    assert normbench("train", *TINY, "norm=gn", "steps=5", "tb=false", cwd=tmp_path).returncode == 0
    found = document("compare", *words, cwd=tmp_path)["comparison"]
    arms = [arm for block in found["blocks"] for arm in block["arms"]]
    assert [(arm["norm"], arm["runs"]) for arm in arms] == [("none", 2), ("bn", 2)] * 2
