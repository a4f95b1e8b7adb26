"""The lists of results that a notebook shows: tables, curves, figures, data frames."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from commands import document
from commands import normbench as shell

import normbench
from normbench.results.tables import Table, TableCell, html

TINY = ["data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "device=cpu"]
SHORT = [*TINY, "steps=20", "tb=false"]
NOTEBOOK = Path(__file__).parents[1] / "docs/notebook.ipynb"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    words = ["norm=none,bn", "batch=16,32", "seeds=3"]
    assert shell("train", "-m", *SHORT, *words, cwd=place).returncode == 0
    return place


def test_a_sweep_is_loaded_with_the_table_of_its_command(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (folder,) = place.glob("outputs/sweeps/*")
    runs = normbench.load(folder)
    again = normbench.sweep(*SHORT, "norm=none,bn", "batch=16,32", seeds=3)
    assert [run.name for run in again] == [run.name for run in runs]
    assert again.table() == runs.table()
    told = document("compare", str(folder), cwd=place)["comparison"]["blocks"]
    every = normbench.load("outputs")
    for block in told:
        for arm in block["arms"]:
            found = [
                run.final["test/accuracy"]
                for run in every
                if (run.settings["norm"], str(run.settings["batch"]))
                == (arm["norm"], block["at"]["batch"])
            ]
            assert arm["mean"] == pytest.approx(sum(map(float, found)) / 3)
    assert "<table>" in runs._repr_html_()
    assert runs.plot("batch")._repr_svg_().startswith("<?xml")


def test_curves_are_those_of_the_rows(place: Path) -> None:
    runs = normbench.load(place / "outputs")
    rows = [
        (row["examples"], row["val/accuracy"])
        for line in (Path(runs[0].directory) / "metrics.jsonl").read_text().splitlines()
        if (row := json.loads(line))["kind"] == "val"
    ]
    found = [row for row in runs.curves() if row["run"] == runs[0].name]
    assert [(row["examples"], row["val/accuracy"]) for row in found] == rows
    assert found[0]["norm"] == runs[0].settings["norm"]


def test_the_learning_rates_of_a_sweep_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["norm=none,bn", "tune=lr", "tune_lrs=[0.1,0.3]", "tune_seeds=1"]
    assert shell("train", "-m", *SHORT, *words, cwd=tmp_path).returncode == 0
    runs = normbench.sweep(*SHORT, *words)  # which are finished
    drawn = runs.plot("lr")._repr_svg_()
    (folder,) = tmp_path.glob("outputs/sweeps/*")
    assert normbench.load(folder).plot("lr")._repr_svg_() == drawn
    with pytest.raises(normbench.NormbenchError, match="nothing to draw"):
        normbench.load("outputs").plot("lr")


def test_a_single_run_is_shown_too(place: Path) -> None:
    (folder, *_) = sorted((place / "outputs/runs").glob("*/seed0"))
    runs = normbench.load(folder)
    assert folder.parent.name in runs._repr_html_()
    with pytest.raises(normbench.NormbenchError, match="nothing to compare it with"):
        runs.table()
    with pytest.raises(normbench.NormbenchError, match="figures are convergence, batch"):
        runs.plot("bach")


def test_a_frame_has_a_line_per_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = ModuleType("pandas")
    stand_in.DataFrame = list  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    runs = normbench.load(place / "outputs")
    lines = runs.to_pandas()
    assert len(lines) == 12
    assert lines[0]["test/accuracy"] == runs[0].final["test/accuracy"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(normbench.NormbenchError, match="pip install pandas"):
        runs.to_pandas()


def test_reading_and_showing_imports_no_torch(place: Path) -> None:
    code = "import normbench, sys; normbench.load()._repr_html_(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=place).returncode == 0


def test_text_of_the_user_is_no_markup() -> None:
    text = html(Table("<b>", ("&",), ((TableCell("<script>"),),), notes=("<i>",)))
    assert "<b>" not in text
    assert "&lt;script&gt;" in text
    assert "<i>" not in text


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
