"""`normbench resume`: what goes on, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli.test_status import everything
from commands import document, normbench, started
from faults.test_process_death import until

from normbench.runs import checkpoint
from normbench.runs.reader import METRICS, STATUS
from normbench.runtime import lock

TINY = ("data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "tb=false")
RUN = (*TINY, "device=cpu", "batch=2", "steps=3000", "eval_every=1", "checkpoint_every=300")
SWEEP = (*TINY, "device=cpu", "batch=2", "steps=2000", "eval_every=1", "checkpoint_every=300")
CELLS = (*SWEEP, "norm=bn,gn", "seeds=2", "eval_stats=running,batch")


def killed(place: Path, *words: str) -> Path:
    """Kill a command once it has kept a run, and return the folder of that run."""
    process = started("train", *words, cwd=place, session=True)
    (path, *_) = until(lambda: sorted(place.glob(f"outputs/runs/*/*/{checkpoint.NAME}")))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not any(lock.held(each.parent) for each in place.glob("outputs/runs/*/*/.lock")))
    return path.parent


def bits(outputs: Path) -> dict[str, tuple[bytes, str]]:
    found = sorted(outputs.glob(f"runs/*/*/{STATUS}"))
    read = {path.parent: json.loads(path.read_text()) for path in found}
    return {
        f"{folder.parent.name}/{folder.name}": (
            (folder / METRICS).read_bytes(),
            status["state_sha256"],
        )
        for folder, status in read.items()
    }


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("stopped")
    killed(place, *RUN)
    return place


@pytest.fixture
def run(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that was killed, below the folder that the test works in."""
    shutil.copytree(stopped / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    return next(Path("outputs").glob("runs/*/seed0"))


def files(place: Path) -> dict[str, Any]:
    """All files but the locks, which are no record."""
    return {name: each for name, each in everything(place).items() if not name.endswith(".lock")}


def refused(*words: str, cwd: Path) -> str:
    """Run a command that is refused with exit code 3 and changes nothing; return what it says."""
    before = files(cwd)
    done = normbench(*words, cwd=cwd)
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert files(cwd) == before
    lines = done.stderr.splitlines()
    assert lines[-2].startswith("normbench: error: ") and lines[-1].startswith("  try: ")
    return "\n".join(lines[-2:])


def test_a_killed_run_goes_on_to_the_bits_of_the_same_command(run: Path, tmp_path: Path) -> None:
    done = normbench("resume", str(run), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole = normbench("train", *RUN, "outputs=whole", cwd=tmp_path)
    assert whole.returncode == 0
    assert bits(tmp_path / "outputs") == bits(tmp_path / "whole")
    status = json.loads((run / STATUS).read_text())
    assert status["attempts"] == 2 and status["resumed_at"][0] >= 300
    assert "changed" not in status
    assert "outputs: outputs\n" in (run / "config.yaml").read_text()
    # Once it is finished it stays as it is, and says so.
    before = files(tmp_path)
    again = normbench("resume", str(run), cwd=tmp_path)
    assert again.returncode == 0 and f"finished already: {run}" in again.stderr
    assert files(tmp_path) == before


@pytest.mark.slow
def test_a_start_from_a_checkpoint_builds_nothing_on_the_meta_device(
    run: Path, tmp_path: Path
) -> None:
    """It would import what torch compiles with, which takes seconds."""
    code = (
        "import sys; from normbench.cli.main import main; assert main(sys.argv[1:]) == 0; "
        "assert not {'sympy', 'torch._dynamo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, "resume", str(run)], cwd=tmp_path, check=True)


def test_other_code_is_refused_and_allowed_when_asked(run: Path, tmp_path: Path) -> None:
    path = run / checkpoint.NAME
    tensors, about = checkpoint.read(path)
    belongs = {**about["belongs"], "torch": "1.13", "source": "a" * 64}
    checkpoint.write(path, tensors, {**about, "belongs": belongs})
    said = refused("resume", str(run), cwd=tmp_path)
    assert "source is aaaaaaaaaaaa there and " in said and "try: allow_changed=true" in said
    done = normbench("resume", str(run), "allow_changed=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    status = json.loads((run / STATUS).read_text())
    assert status["state"] == "finished"
    assert [text.split(" is ")[0] for text in status["changed"]] == ["source", "torch"]


def test_another_number_of_threads_is_allowed_when_asked(run: Path, tmp_path: Path) -> None:
    assert "try: allow_changed=true" in refused("resume", str(run), "threads=2", cwd=tmp_path)
    done = normbench("resume", str(run), "threads=2", "allow_changed=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    status = json.loads((run / STATUS).read_text())
    assert (status["state"], status["changed"]) == ("finished", ["threads is 1 there and 2 here"])
    assert json.loads((run / "environment.json").read_text())[-1]["threads"] == 2
    assert normbench("verify", str(run), cwd=tmp_path).returncode == 0


def test_a_run_that_starts_over_has_the_threads_of_its_name(run: Path, tmp_path: Path) -> None:
    (run / checkpoint.NAME).unlink()
    done = normbench("resume", str(run), "threads=2", "allow_changed=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (begun,) = json.loads((run / "environment.json").read_text())
    assert begun["threads"] == 1 and "changed" not in json.loads((run / STATUS).read_text())


def test_a_checkpoint_of_another_run_is_never_allowed(run: Path, tmp_path: Path) -> None:
    path = run / checkpoint.NAME
    tensors, about = checkpoint.read(path)
    belongs = {**about["belongs"], "run": "mlp-gn-b2-0123456789ab/seed0"}
    checkpoint.write(path, tensors, {**about, "belongs": belongs})
    said = refused("resume", str(run), "allow_changed=true", cwd=tmp_path)
    assert (
        "run is mlp-gn-b2-0123456789ab/seed0 there and mlp-width8-bn" in said and "try: rm " in said
    )
    assert refused_by_verify(run, tmp_path) == said


def refused_by_verify(run: Path, place: Path) -> str:
    done = normbench("verify", str(run), cwd=place)
    assert done.returncode == 3
    return done.stderr.rstrip()


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("steps=5", "steps is 3000 there and 5 here"),
        ("norm=gn", "norm is bn there and gn here"),
    ],
)
def test_what_is_trained_was_settled(word: str, why: str, run: Path, tmp_path: Path) -> None:
    assert why in refused("resume", str(run), word, cwd=tmp_path)
    assert why in refused("resume", word, str(run), "allow_changed=true", cwd=tmp_path)


def test_settings_that_the_run_has_can_be_said(run: Path, tmp_path: Path) -> None:
    words = ("steps=3000", "norm=bn", "checkpoint_every=0", "tb=true")
    assert normbench("resume", str(run), *words, cwd=tmp_path).returncode == 0
    assert list(run.glob("events*"))


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


DAMAGES: dict[str, tuple[str, Callable[[str], str], str]] = {
    "a setting": (
        "config.yaml",
        lambda t: changed(t, "batch: 2", "batch: 4"),
        "is of mlp-width8-bn-b4-",
    ),
    "a strange one": ("config.yaml", lambda t: t + "  _target_: os.system\n", "not a setting"),
    "hydra's": ("config.yaml", lambda t: t + "  hydra: {}\n", "which is not a setting"),
    "an interpolation": ("config.yaml", lambda t: changed(t, "off", "${oc.env:HOME}"), "holds an"),
    "a wrong value": ("config.yaml", lambda t: changed(t, "jobs: auto", "jobs: many"), "jobs=many"),
    "no part": ("config.yaml", lambda t: changed(t, "name: bn", "name: bm"), "norm=bm is no part"),
    "no YAML": ("config.yaml", lambda t: "{", "is not YAML"),
    "no state": ("status.json", lambda t: "", "is not JSON"),
    "no rows": ("metrics.jsonl", lambda t: "", "has 0 bytes, and had"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_refused(damage: str, run: Path, tmp_path: Path) -> None:
    name, do, why = DAMAGES[damage]
    text = (run / name).read_text()
    if damage == "an interpolation":
        text = changed(text, "diagnose: light", "diagnose: off")
    (run / name).write_text(do(text))
    said = refused("resume", str(run), cwd=tmp_path)
    assert f"{run}/{name}: " in said and why in said


def test_what_is_none_of_a_run_or_sweep_is_refused(run: Path, tmp_path: Path) -> None:
    assert "is not here" in refused("resume", "nowhere", cwd=tmp_path)
    assert "is neither a run nor a sweep" in refused("resume", "outputs", cwd=tmp_path)
    assert normbench("resume", cwd=tmp_path).returncode == 2
    assert normbench("resume", str(run), "outputs", cwd=tmp_path).returncode == 2
    done = normbench("resume", str(run), "bacth=2", cwd=tmp_path)
    assert done.returncode == 2 and "try: batch=2" in done.stderr


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that was killed while its first run went on."""
    place = tmp_path_factory.mktemp("swept")
    killed(place, "-m", *CELLS)
    return place


def test_a_killed_sweep_goes_on_to_the_same_files(swept: Path, tmp_path: Path) -> None:
    shutil.copytree(swept / "outputs", tmp_path / "cut/outputs")
    (folder,) = tmp_path.glob("cut/outputs/sweeps/*")
    done = normbench("resume", str(folder.relative_to(tmp_path)), "jobs=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "whole").mkdir()
    assert normbench("train", "-m", *CELLS, cwd=tmp_path / "whole").returncode == 0
    assert bits(tmp_path / "cut/outputs") == bits(tmp_path / "whole/outputs")
    (other,) = tmp_path.glob("whole/outputs/sweeps/*")
    assert other.name == folder.name
    first, second = (json.loads((each / "sweep.json").read_text()) for each in (folder, other))
    assert first["state"] == "ended" and first["cells"] == second["cells"]
    assert first["command"] == second["command"]
    assert document("verify", "cut/outputs", cwd=tmp_path)["damaged"] == []
    again = normbench("resume", str(folder.relative_to(tmp_path)), cwd=tmp_path)
    assert again.returncode == 0 and "4 finished already" in again.stderr


def test_a_changed_plan_is_refused(swept: Path, tmp_path: Path) -> None:
    shutil.copytree(swept / "outputs", tmp_path / "outputs")
    (path,) = tmp_path.glob("outputs/sweeps/*/sweep.json")
    folder, whole = str(path.parent.relative_to(tmp_path)), json.loads(path.read_text())

    def says(words: str, **changes: Any) -> None:
        path.write_text(json.dumps({**whole, **changes}))
        said = refused("resume", folder, cwd=tmp_path)
        assert words in said and "sweep.json" in said

    plan = whole["plan"]
    cell = plan["cells"][0]

    def with_cell(**changes: Any) -> dict[str, Any]:
        return {**plan, "cells": [{**cell, **changes}, *plan["cells"][1:]]}

    for wrong in (None, {}, [], {**plan, "cells": []}, with_cell(words=[3]), with_cell(idle=None)):
        says("does not say what the sweep trains", plan=wrong)
    says("does not say what the sweep trains", command="rm -r /")
    says("is of data with the digest", plan=with_cell(data="0" * 64))
    for key, value, words in (
        ("norm", {"name": "os.system"}, "norm=os.system is no part"),
        ("hydra", {}, "which is not a setting"),
        ("batch", "${oc.env:HOME}", "holds an interpolation"),
        ("batch", -1, "batch=-1: must be"),
        ("batch", 10**6, "is more than the 2000 training images"),
        ("batch", 4, "is not of the sweep"),
        ("shifts", ["unheard"], "shifts"),
    ):
        says(words, plan=with_cell(settings={**cell["settings"], key: value}))
    path.write_text("{")
    assert "is not JSON" in refused("resume", folder, cwd=tmp_path)
