"""One more activation, schedule or order edits no other file: three new ones, and it is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from commands import run_with

ROOT = Path(__file__).parents[2]
HEAD = """
from dataclasses import dataclass
from typing import *
import torch
from torch import Tensor, nn
from normbench.{folder}._base import {base}
from normbench.parts.options import option

@dataclass(frozen=True)
class Scratch({base}):
    '''Scratch part: only for a test.'''

    power: float = option(2.0, above=0, high=8)
"""
PARTS = {
    "activation": """
    gain: ClassVar[float] = 1.5

    def build(self, channels: int, dims: int) -> nn.Module:
        return nn.Softplus(self.power)
""",
    "schedule": """
    def share(self, done: float) -> float:
        return (1 - done) ** self.power
""",
    "order": """
    def draw(self, labels: Tensor, shape: tuple[int, int], random: torch.Generator) -> Tensor:
        return torch.arange(shape[0] * shape[1]).reshape(shape)
""",
}
FOLDERS = {
    "activation": ("activations", "Activation"),
    "schedule": ("schedules", "Schedule"),
    "order": ("orders", "Order"),
}
TRAIN = ("train", "data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "steps=3")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of normbench with a part `scratch` of each kind, to put on PYTHONPATH."""
    place = tmp_path_factory.mktemp("path")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "normbench", place / "normbench", ignore=ignored)
    shutil.copytree(ROOT / "configs", place / "configs")
    for group, code in PARTS.items():
        folder, base = FOLDERS[group]
        file = place / "normbench" / folder / "scratch.py"
        file.write_text(HEAD.format(folder=folder, base=base) + code)
        (place / "configs" / group / "scratch.yaml").write_text("name: scratch\npower: 2.0\n")
    return place


def test_they_are_listed_and_checked(path: Path, tmp_path: Path) -> None:
    listed = run_with(path, tmp_path, "list", "orders", "scratch")
    assert "only for a test" in listed.stdout and "order.power" in listed.stdout
    words = [word for group in PARTS for word in (f"{group}=scratch", f"{group}.power=9")]
    wrong = run_with(path, tmp_path, *TRAIN, *words)
    near = run_with(path, tmp_path, *TRAIN, *(f"{group}=scrach" for group in PARTS))
    assert wrong.returncode == near.returncode == 2
    for group in PARTS:
        assert f"{group}.power=9: must be above 0 and at most 8" in wrong.stderr
        assert f"  try: {group}=scratch " in near.stderr


def test_all_three_train(path: Path, tmp_path: Path) -> None:
    words = [word for group in PARTS for word in (f"{group}=scratch", f"{group}.power=3")]
    done = run_with(path, tmp_path, *TRAIN, *words)
    assert done.returncode == 0, done.stderr
    (config,) = tmp_path.glob("outputs/runs/*/seed0/config.yaml")
    experiment = yaml.safe_load(config.read_text())["experiment"]
    for group in PARTS:
        assert experiment[group] == {"name": "scratch", "power": 3.0}
