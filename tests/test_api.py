"""The public names of `normbench`: what they are, and that they do what the commands do."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import normbench as shell

import normbench
from normbench.rows import Row

PACKAGE = Path(normbench.__file__).parent
TINY = ["data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "device=cpu"]
SHORT = [*TINY, "steps=5", "tb=false"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_public_names_are_these() -> None:
    assert sorted(normbench.__all__) == [
        "Config",
        "NormbenchError",
        "Result",
        "Runs",
        "__version__",
        "config",
        "load",
        "load_results",
        "norms",
        "run",
        "sweep",
    ]
    assert all(getattr(normbench, name) for name in normbench.__all__)
    assert set(dir(normbench)) == set(normbench.__all__)


def test_every_public_name_has_its_type_in_the_stub() -> None:
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imported = {
        alias.asname
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported | {"__version__"} == set(normbench.__all__)


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'normbench' has no attribute 'train'"):
        _ = normbench.train  # type: ignore[attr-defined]


def test_importing_normbench_imports_nothing_heavy() -> None:
    code = "import normbench, sys; sys.exit(bool({'torch', 'hydra', 'rich'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_recorded_results_are_read_without_torch(tmp_path: Path) -> None:
    (tmp_path / "outputs/runs").mkdir(parents=True)
    code = "import normbench, sys; normbench.load_results(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_config_is_that_of_the_command_line() -> None:
    made = normbench.config("norm=gn", "norm.groups=4", batch=2, clip=None, tb=False)
    assert (made.norm["name"], made.norm["groups"], made.batch, made.tb) == ("gn", 4, 2, False)
    assert made == normbench.config("norm=gn", "norm.groups=4", "batch=2", "clip=null", "tb=false")


def test_a_path_is_taken_as_it_stands(tmp_path: Path) -> None:
    assert normbench.config(outputs=tmp_path / "a (b)").outputs == str(tmp_path / "a (b)")


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (["norm=gm"], {}, "norm=gm: no norm has this name\n  try: norm=gn"),
        ([], {"bach": 2}, "bach=2: no setting has this name\n  try: batch=2"),
        ([], {"norm": "bn,gn"}, "norm=bn,gn: is a list: several runs"),
        ([], {"seeds": 3}, "seeds=3: is not for one run that is to be trained"),
        ([], {"dry_run": True}, "dry_run=true: is not for one run that is to be trained"),
    ],
)
def test_what_cannot_work_is_refused(
    words: list[str], settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(normbench.NormbenchError) as refused:
        normbench.config(*words, **settings)
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_parts_that_do_not_fit_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    made = normbench.config(*SHORT, "norm=in")
    with pytest.raises(normbench.NormbenchError, match="has no positions to take statistics over"):
        normbench.run(made)
    assert list(tmp_path.iterdir()) == []


def test_a_run_gives_its_result_and_its_rows() -> None:
    rows: list[Row] = []
    result = normbench.run(normbench.config(*SHORT, norm="gn"), on_row=rows.append)
    assert result.state == "finished"
    assert 0 <= (result.final["test/accuracy"] or -1) <= 1
    assert (result.settings["norm"], result.settings["batch"], result.seed) == ("gn", 64, 0)
    assert rows[-1].kind == "end"


def test_python_and_the_shell_find_each_other_s_runs(tmp_path: Path) -> None:
    assert shell("train", *SHORT, "norm=bn", cwd=tmp_path).returncode == 0
    rows: list[Row] = []
    found = normbench.run(normbench.config(*SHORT, norm="bn"), on_row=rows.append)
    assert rows == []
    assert found == normbench.load_results()[0]
    normbench.run(normbench.config(*SHORT, norm="gn"))
    assert "finished already" in shell("train", *SHORT, "norm=gn", cwd=tmp_path).stderr


def test_a_run_from_python_has_the_bytes_of_the_shell(tmp_path: Path) -> None:
    assert shell("train", *SHORT, "outputs=shell", cwd=tmp_path).returncode == 0
    normbench.run(normbench.config(*SHORT, outputs="python"))
    written = [next(tmp_path.glob(f"{name}/**/metrics.jsonl")) for name in ("shell", "python")]
    assert written[0].read_bytes() == written[1].read_bytes()
    digests = [
        json.loads((path.parent / "status.json").read_text())["state_sha256"] for path in written
    ]
    assert digests[0] == digests[1]


def test_a_sweep_gives_a_result_for_each_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    results = normbench.sweep(*SHORT, "norm=none,bn", seeds=2)
    assert [(each.settings["norm"], each.seed) for each in results] == [
        ("none", 0),
        ("none", 1),
        ("bn", 0),
        ("bn", 1),
    ]
    assert {each.state for each in results} == {"finished"}
    (folder,) = (tmp_path / "outputs/sweeps").iterdir()
    assert (folder / "table.md").is_file()
    assert len(normbench.load_results()) == 4
    assert capfd.readouterr() == ("", "")


def test_a_failed_run_of_a_sweep_is_among_the_results() -> None:
    words = ["on_nan=fail", "optimizer.lr=0.01,1e20", "warmup=0", "norm=none"]
    results = normbench.sweep(*TINY, "tb=false", "steps=60", *words)
    assert [each.state for each in results] == ["finished", "failed"]
    assert "is not finite" in str(results[1].message)


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(normbench.NormbenchError, match="is not a folder of runs"):
        normbench.load_results(tmp_path)
