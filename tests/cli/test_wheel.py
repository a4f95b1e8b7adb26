"""The wheel holds everything that a checkout has and a run needs."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

builder = pytest.importorskip("hatchling.builders.wheel")
ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_data_configs_and_plugin(tmp_path: Path) -> None:
    (wheel,) = builder.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(wheel).namelist())
    here = {
        *(f"normbench/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")),
        *(str(path.relative_to(ROOT)) for path in (ROOT / "normbench").rglob("*.py")),
        *(str(path.relative_to(ROOT)) for path in (ROOT / "normbench/data/files").iterdir()),
        *(str(path.relative_to(ROOT)) for path in (ROOT / "hydra_plugins").rglob("*.py")),
        "normbench/py.typed",
    }
    assert len([name for name in here if name.endswith(".gz")]) == 4
    assert here <= names
