"""`normbench eval` and `export`: finished runs asked something new, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from commands import document, normbench, started
from torch.nn import BatchNorm1d, Flatten, Linear, ReLU, Sequential

from normbench.data.synthetic import Synthetic
from normbench.runs import evaluations
from normbench.runs.stored import stored

SMALL = ("data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=16", "device=cpu")
SHORT = (*SMALL, "steps=30", "tb=false", "eval_every=1")
SWEEP = ("norm=bn,none", "eval_stats=running,batch,dataset", "shifts=[],[invert]")


def runs(place: Path) -> list[Path]:
    return sorted((place / "outputs/runs").glob("*/seed*"))


def bytes_of(place: Path) -> dict[str, str]:
    """The digest of each file below a folder but of the locks."""
    files = [path for path in sorted(place.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which bn and none have been trained by the sweep of the specification."""
    place = tmp_path_factory.mktemp("eval")
    done = normbench("train", "-m", *SHORT, *SWEEP, cwd=place)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained / "outputs", tmp_path / "outputs")
    return tmp_path


def test_a_sweep_over_evaluations_trains_each_training_once(trained: Path) -> None:
    assert len(runs(trained)) == 2
    for run in runs(trained):
        assert json.loads((run / "status.json").read_text())["attempts"] == 1
        assert len(list(run.glob("evaluation-*.json"))) == 6  # its own one among them
    (table,) = (trained / "outputs/sweeps").glob("*/results.csv")
    assert len(table.read_text().splitlines()) == 13
    before = bytes_of(trained / "outputs/runs")
    again = normbench("train", "-m", *SHORT, *SWEEP, cwd=trained)
    assert "2 finished already" in again.stderr
    assert bytes_of(trained / "outputs/runs") == before


def test_a_sweep_in_other_words_judges_only_what_is_new(copied: Path) -> None:
    before = bytes_of(copied / "outputs/runs")
    words = (*SMALL, "epochs=0.96", "tb=false", "norm=bn,none", "eval_stats=batch", "log_every=7")
    told = document("train", "-m", *words, "shifts=[invert],[noise+0.1]", cwd=copied)
    assert [run["state"] for run in told["runs"]] == ["finished"] * 4
    after = bytes_of(copied / "outputs/runs")
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2


def test_an_evaluation_is_the_same_file_whoever_asks(copied: Path, tmp_path: Path) -> None:
    words = ("shifts=[contrast*0.5]", "eval_stats=dataset")
    assert normbench("eval", "outputs", *words, cwd=copied).returncode == 0
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert normbench("train", "-m", *SHORT, "norm=bn,none", *words, cwd=fresh).returncode == 0
    for asked, trained in zip(runs(copied), runs(fresh), strict=True):
        assert asked.name == trained.name
        (made,) = trained.glob("evaluation-[!o]*.json")
        assert (asked / made.name).read_bytes() == made.read_bytes()


def test_values_that_a_shift_does_not_touch_are_those_of_the_training(trained: Path) -> None:
    for run in runs(trained):
        final = json.loads((run / "status.json").read_text())["final"]
        told = document("eval", str(run), "shifts=[invert]", cwd=trained)["runs"]
        (seed,) = told[0]["seeds"]
        assert final.items() <= seed["final"].items()
        assert set(seed["final"]) - set(final) == {"test/accuracy/invert", "test/loss/invert"}


def test_training_accuracy_and_its_distance_to_the_test(copied: Path) -> None:
    told = document("eval", "outputs", "train_acc=true", cwd=copied)["runs"]
    assert len(told) == 2
    for run in told:
        final = run["seeds"][0]["final"]
        gap = final["train_eval/accuracy"] - final["test/accuracy"]
        assert final["gen_gap/accuracy"] == pytest.approx(gap)
    told = document("compare", "--metric", "gen_gap", cwd=copied)
    assert told["comparison"]["metric"] == "gen_gap/accuracy"


def test_the_bits_say_which_images_are_right(trained: Path) -> None:
    """Held against the weights in plain torch, whose code is that of the documentation."""
    run = next(path for path in runs(trained) if "-bn-" in path.parent.name)
    file = trained / "weights.safetensors"
    assert normbench("export", str(run), "-o", str(file), cwd=trained).returncode == 0
    page = (Path(__file__).parents[2] / "docs/evaluations.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    code = (
        code.replace("784", "64")
        .replace("100", "16")
        .replace("weights.saf", f"{trained}/weights.saf")
    )
    known = {"OrderedDict": OrderedDict, "Linear": Linear, "BatchNorm1d": BatchNorm1d}
    known |= {"ReLU": ReLU, "Sequential": Sequential, "Flatten": Flatten}
    exec(code, scope := {**known, "safetensors": safetensors})
    data = Synthetic(shape=[1, 8, 8]).load()
    mean, std = (torch.tensor(each) for each in (data.mean, data.std))
    images, labels = data.test.images.float() / 255, data.test.labels
    for name, pixels in {"": images, "invert": 1 - images}.items():
        with torch.no_grad():
            right = scope["model"]((pixels - mean) / std).argmax(1) == labels
        config = stored(run)
        if name:
            config = dataclasses.replace(config, shifts=["invert"])
        status = json.loads((run / "status.json").read_text())
        made = evaluations.read(config, status["state_sha256"])
        assert made is not None
        bits = np.unpackbits(np.frombuffer(made.right[name], np.uint8))[: len(labels)]
        assert (bits == right.numpy()).mean() > 0.995  # rounding may turn an image
        final = made.over(status["final"])
        assert bits.mean() == pytest.approx(final[f"test/accuracy/{name}".rstrip("/")])


def test_other_images_of_the_same_shape_and_classes(tmp_path: Path) -> None:
    words = [*SHORT, "data.shape=[1,28,28]", "norm=gn"]
    assert normbench("train", *words[:1], *words[2:], cwd=tmp_path).returncode == 0
    (run,) = runs(tmp_path)
    own = json.loads((run / "status.json").read_text())["final"]
    (told,) = document("eval", "outputs", "data=mnist", "eval_stats=batch", cwd=tmp_path)["runs"]
    (seed,) = told["seeds"]
    assert told["config"]["data"] == "mnist"
    assert seed["final"]["test/accuracy"] != own["test/accuracy"]
    assert seed["final"]["chance/test"] == pytest.approx(0.1135)  # ones among the 10,000


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("", 2, "eval: names no run"),
        ("nowhere shifts=[invert]", 3, "nowhere: is not here"),
        ("outputs shifts=[inver]", 2, "try: shifts=[invert]"),
        ("outputs shift=[invert]", 2, "no setting has this name"),
        ("outputs batch=3", 2, "was settled when the runs were trained"),
        ("outputs data.root=x", 2, "says nothing of the data that is meant"),
        ("outputs test_blank_steps=[3]", 2, "try: test_blank_steps=[]"),
        ("outputs eval_stats=both", 2, "is none of running, batch, dataset"),
        ("outputs data=mnist", 3, "has images of 1x28x28 in 10 classes, and"),
        ("outputs data=synthetic data.shape=[1,8,8] data.classes=5", 3, "in 5 classes, and"),
    ],
)
def test_what_cannot_be_asked(trained: Path, words: str, code: int, message: str) -> None:
    before = bytes_of(trained)
    done = normbench("eval", *words.split(), cwd=trained)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "  try: " in done.stderr
    assert bytes_of(trained) == before


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def another(path: Path) -> None:
    other = next(each for each in path.parents[2].glob("*/seed0") if each != path.parent)
    shutil.copy(other / path.name, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: flip(path, -1), "digest"),
        (lambda path: flip(path, 3), "is not a safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "cut off"),
        (lambda path: path.write_bytes(b"\x80\x04."), "is not a safetensors file"),
        (another, r"run is mlp-width16-none-\S+/seed0 there, and mlp-width16-bn-\S+/seed0 in"),
        (lambda path: path.unlink(), "has kept no weights"),
        (lambda path: (path.unlink(), path.symlink_to("status.json")), "link"),
    ],
)
def test_weights_that_are_not_those_of_the_run(copied: Path, spoil, message: str) -> None:
    run = runs(copied)[0]
    spoil(run / "weights.safetensors")
    before = bytes_of(copied)
    done = normbench("eval", str(run), "shifts=[noise+0.3]", cwd=copied)
    assert done.returncode == 3, done.stderr
    assert re.search(message, done.stderr)
    assert bytes_of(copied) == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch: 64", "batch: 32", "is of mlp-"),
        ("layout: 2\n", "", "is of a run of layout 1"),
        ("layout: 2", "layout: 3", "is of a run of layout 3, this normbench reads 2"),
        ("layout: 2", "layout: 2\nbad: [", "is not YAML"),
        ("  batch: 64", "  batch: many", "batch=many: is not an integer"),
        ("  batch: 64", "  batch: 64\n  bach: 2", "bach=2 is no setting"),
        ("name: mlp", "name: ../mlp", "is no part"),
    ],
)
def test_a_configuration_that_was_changed(copied: Path, old: str, new: str, message: str) -> None:
    path = runs(copied)[0] / "config.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    before = bytes_of(copied)
    for words in (("eval", "shifts=[noise+0.3]"), ("export", "-o", "x.safetensors")):
        done = normbench(words[0], str(path.parent), *words[1:], cwd=copied)
        assert done.returncode == 3, done.stderr
        assert message in done.stderr
    assert bytes_of(copied) == before


def test_only_finished_runs_are_judged_and_exported(copied: Path) -> None:
    path = runs(copied)[0] / "status.json"
    path.write_text(path.read_text().replace('"finished"', '"interrupted"', 1))
    for words in (("eval", "shifts=[noise+0.3]"), ("export", "-o", "x.safetensors")):
        done = normbench(words[0], str(path.parent), *words[1:], cwd=copied)
        assert done.returncode == 3
        assert "is interrupted" in done.stderr


def test_an_evaluation_of_weights_that_are_gone_does_not_count(copied: Path) -> None:
    run = runs(copied)[0]
    stale = sorted(run.glob("evaluation-[!o]*.json"))[0]
    told = json.loads(stale.read_text())
    stale.write_text(json.dumps({**told, "state_sha256": "0" * 64}))
    words = [
        f"{key}={json.dumps(value).replace(chr(34), '')}"
        for key, value in told["evaluation"].items()
    ]
    assert normbench("eval", str(run), *words, cwd=copied).returncode == 0
    assert json.loads(stale.read_text()) == told


def test_a_run_of_several_workers_is_judged_by_one(tmp_path: Path) -> None:
    words = (*SHORT, "norm=bn", "gpus=2", "steps=4")
    assert normbench("train", *(w for w in words if w != "steps=30"), cwd=tmp_path).returncode == 0
    (run,) = runs(tmp_path)
    own = json.loads((run / "status.json").read_text())["final"]
    (told,) = document("eval", "outputs", "eval_stats=batch", cwd=tmp_path)["runs"]
    batch = told["seeds"][0]["final"]
    (told,) = document("eval", "outputs", "shifts=[brightness+0]", cwd=tmp_path)["runs"]
    shifted = told["seeds"][0]["final"]
    assert shifted["test/accuracy/brightness+0"] == own["test/accuracy"]
    assert abs(batch["gap/accuracy"]) <= 0.02  # both modes are by the statistics of one worker


def test_a_file_that_is_there_is_not_written_over(trained: Path) -> None:
    (trained / "mine.safetensors").write_text("mine")
    done = normbench("export", str(runs(trained)[0]), "-o", "mine.safetensors", cwd=trained)
    assert (done.returncode, (trained / "mine.safetensors").read_text()) == (3, "mine")
    done = normbench("export", str(runs(trained)[0]), "-o", "mine.bin", cwd=trained)
    assert done.returncode == 2


def test_weights_that_are_not_kept_are_judged_first(tmp_path: Path) -> None:
    words = (*SHORT, "norm=bn", "keep=none")
    told = document("train", "-m", *words, "eval_stats=batch,running", cwd=tmp_path)
    assert [run["state"] for run in told["runs"]] == ["finished"] * 2
    (run,) = runs(tmp_path)
    assert not (run / "weights.safetensors").exists()
    assert "finished already" in normbench("train", *words, "eval_stats=batch", cwd=tmp_path).stderr
    done = normbench("train", *words, "shifts=[invert]", cwd=tmp_path)
    assert done.returncode == 3
    assert "has kept no weights" in done.stderr
    again = normbench("train", *words, "shifts=[invert]", "force=true", cwd=tmp_path)
    assert again.returncode == 0
    assert len(list(run.glob("evaluation-*"))) == 2  # those of the weights before went with them


def test_commands_at_once_train_and_judge_each_run_once(tmp_path: Path) -> None:
    words = ("train", "-m", *SHORT, "norm=bn,gn", "eval_stats=running,batch", "jobs=1")
    commands = [started(*words, cwd=tmp_path) for _ in range(3)]
    assert [command.wait() for command in commands] == [0] * 3
    for run in runs(tmp_path):
        assert json.loads((run / "status.json").read_text())["attempts"] == 1
        assert len(list(run.glob("evaluation-*"))) == 2
