"""The structure of the code: imports only go down, parts know only their base, names stay out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import traceback
from functools import cache
from pathlib import Path

import pytest

from normbench.parts import registry

PACKAGE = Path(__file__).parents[2] / "normbench"
FLOORS = (
    "__init__",
    "errors rows",
    "parts runtime",
    "norms optimizers data results schedules orders",
    "engine models inits settings display activations",
    "runs",
    "sweeps",
    "studies",
    "cli",
    "__main__ api",
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
PART_FOLDERS = tuple(folder for folder, _ in registry.KINDS.values())
TORCH_FREE = (
    *("errors", "rows", "parts.options", "parts.registry", "runtime.storage", "runtime.machine"),
    *("results.stats", "results.tables", "results.time_to_target", "results.lr_search"),
    *("settings.schema", "settings.compose", "settings.resolve", "settings.rules"),
    *("settings.inputs", "display.screen", "runs.directory", "runs.checkpoint"),
    *("sweeps.plan", "sweeps.describe", "sweeps.sweep", "sweeps.command"),
    *("sweeps.conclusion", "sweeps.curves"),
    *("sweeps.reported", "sweeps.runs", "display.page", "display.figures"),
    *("cli.main", "cli.train", "cli.list", "cli.data", "cli.report", "cli.plot"),
)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module(path: Path) -> str:
    names = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether at the top) of each import of a file, those for types only included."""
    tree = ast.parse(path.read_text())
    known = {module(path) for path in modules()}
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inner]
        found += [(name, node in tree.body) for name in names]
    return found


def own(path: Path) -> set[str]:
    """The modules of normbench that a file imports."""
    return {name for name, _ in imports(path) if name.partition(".")[0] == "normbench"}


def room_of(name: str) -> str:
    return (name.split(".") + ["__init__"])[1]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_go_to_lower_floors(path: Path) -> None:
    here = room(path)
    for name in own(path):
        there = room_of(name)
        if there != here:
            assert FLOOR[there] < FLOOR[here], f"{path.name} imports {name}"


def test_no_import_comes_back_to_where_it_began() -> None:
    arrows = {module(path): own(path) - {module(path)} for path in modules()}
    while leaves := [name for name, others in arrows.items() if not others & set(arrows)]:
        for name in leaves:
            del arrows[name]
    assert not arrows, f"a circle goes through {sorted(arrows)}"


def test_the_top_folder_holds_rooms_and_the_ground_floor() -> None:
    entries = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    assert entries - {"__pycache__", "configs"} == {*FLOOR, "py.typed", "__init__.pyi"}


@pytest.mark.parametrize("path", modules(), ids=module)
def test_a_file_has_at_most_300_lines_and_a_function_40(path: Path) -> None:
    text = path.read_text()
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 40
    }
    assert len(text.splitlines()) <= 300, "cut the file where it does a second thing"
    assert not long.keys() - {"fit"}, long


@pytest.mark.parametrize("folder", PART_FOLDERS)
def test_a_part_imports_no_other_part(folder: str) -> None:
    for path in (PACKAGE / folder).glob("*.py"):
        for name, _ in imports(path):
            siblings = re.match(rf"normbench\.{folder}\.(\w+)", name)
            if siblings and path.stem != "__init__":
                assert siblings[1].startswith("_"), f"{path.name} imports {name}"


def test_models_and_engine_name_no_norm() -> None:
    plain_words = {"none", "in", "mean", "switch", "cosine"}
    names = set(registry.names("norm")) - plain_words
    for path in [*(PACKAGE / "models").glob("*.py"), *(PACKAGE / "engine").glob("*.py")]:
        words = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not words & names, f"{path.name} names {words & names}"


def test_one_file_names_torch_distributed() -> None:
    naming = [path.name for path in modules() if "torch.distributed" in path.read_text()]
    assert naming in ([], ["collectives.py"])


def test_one_file_looks_code_up_by_name() -> None:
    naming = [path.name for path in modules() if "importlib.import_module" in path.read_text()]
    assert naming == ["registry.py"]


def test_torch_free_rooms_do_not_import_torch() -> None:
    code = f"import sys; import {', '.join(f'normbench.{each}' for each in TORCH_FREE)}"
    code += "; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == 0


def test_parts_of_data_do_not_import_torch() -> None:
    for path in (PACKAGE / "data").glob("*.py"):
        top = [name for name, at_top in imports(path) if at_top]
        assert not [name for name in top if name.split(".")[0] in ("torch", "torchvision", "numpy")]


def test_at_most_eight_frames_lead_from_a_command_to_the_optimizer_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from normbench.cli.main import main
    from normbench.engine.train import TrainStep

    frames: list[str] = []

    def step(self: object, lr: float) -> None:
        frames.extend(
            frame.name
            for frame in traceback.extract_stack()
            if Path(frame.filename).is_relative_to(PACKAGE)
        )

    start = TrainStep.__post_init__

    def patched(train_step: TrainStep) -> None:
        start(train_step)
        monkeypatch.setattr(type(train_step.optimizer), "step", step)

    monkeypatch.setattr(TrainStep, "__post_init__", patched)
    words = ["data=synthetic", "model=mlp", "steps=1", "tb=false", "device=cpu", "-q"]
    assert main(["train", *words, f"--outputs={tmp_path}"]) == 0
    assert frames[-4:] == ["run", "worker", "fit", "__call__"]
    assert len([*frames, "step"]) <= 8, frames


def test_every_dependency_has_a_tested_version_and_a_lower_bound() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    needed = project["project"]["dependencies"]
    extras = sum(project["project"]["optional-dependencies"].values(), [])
    dev = project["dependency-groups"]["dev"]
    pins = project["tool"]["uv"]["constraint-dependencies"]
    assert all(re.fullmatch(r"[a-z0-9-]+==[^ @/]+( ; [a-z_]+ .*)?", pin) for pin in pins)
    tested = {pin.partition("==")[0] for pin in pins}
    assert {re.match(r"[\w-]+", each)[0] for each in needed + extras + dev} <= tested, (
        "run scripts/versions"
    )
    assert [each for each in needed + extras if ">=" not in each] == []
