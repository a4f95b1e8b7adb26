"""The structure of the code: imports only go down, parts know only their base, names stay out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "normbench"
FLOORS = (
    "errors __init__",
    "options",
    "registry rows files stats ranks seeds events terminal schedule",
    "machine data optimizers norms report inputs orders augment",
    "models inits config record screen diagnose tune targets feed",
    "grid train build summary team",
    "plan run",
    "pool catalogue completion doctor datasets",
    "sweep overview",
    "cli",
    "__main__",
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
PART_FOLDERS = ("data", "inits", "optimizers", "norms", "models")
TORCH_FREE = (
    *("errors", "options", "registry", "rows", "files", "stats", "machine", "config", "grid"),
    *("plan", "report", "record", "terminal", "screen", "catalogue", "cli", "sweep", "inputs"),
    *("orders", "augment"),
    *("datasets", "targets"),
    "tune",
)


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """(room or foreign package, whether at run time and at the top) of each import of a file."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for each in ast.walk(tree)
        if isinstance(each, ast.If) and "TYPE_CHECKING" in ast.unparse(each.test)
        for node in ast.walk(each)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "normbench":
            names = [f"normbench.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        found += [(name, node in tree.body) for name in names]
    return found


def own(path: Path) -> list[str]:
    rooms = [name.split(".")[1] for name, _ in imports(path) if name.startswith("normbench.")]
    return [each if each in FLOOR else "__init__" for each in rooms]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_go_to_lower_floors(path: Path) -> None:
    mine = FLOOR[room(path)]
    for other in own(path):
        assert other == room(path) or FLOOR[other] < mine, f"{path.name} imports {other}"


@pytest.mark.parametrize("folder", PART_FOLDERS)
def test_a_part_imports_no_other_part(folder: str) -> None:
    for path in (PACKAGE / folder).glob("*.py"):
        for name, _ in imports(path):
            siblings = re.match(rf"normbench\.{folder}\.(\w+)", name)
            if siblings and path.stem != "__init__":
                assert siblings[1].startswith("_"), f"{path.name} imports {name}"


def test_models_and_engine_name_no_norm() -> None:
    from normbench.parts import registry

    plain_words = {"none", "in", "mean", "switch", "cosine"}
    names = set(registry.names("norm")) - plain_words
    for path in [*(PACKAGE / "models").glob("*.py"), PACKAGE / "train.py"]:
        words = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not words & names, f"{path.name} names {words & names}"


def test_one_file_names_torch_distributed() -> None:
    naming = [path.name for path in modules() if "torch.distributed" in path.read_text()]
    assert naming in ([], ["ranks.py"])


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
