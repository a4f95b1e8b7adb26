"""One more norm edits no other file: as a copied file, and from another package by entry point."""

from __future__ import annotations

import pkgutil
import shutil
from pathlib import Path

import pytest
from commands import document, normbench, run_with

from normbench.parts.moved import NOW

ROOT = Path(__file__).parents[2]
SCRATCH = '''"""A scratch norm."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from normbench.norms._base import Norm
from normbench.parts.options import option


@dataclass(frozen=True)
class Scratch(Norm):
    """Scratch norm: divides each sample by its largest absolute value.

    Source: nobody 2026.
    """

    floor: float = option(0.1, above=0)

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer."""
        return Largest(self.floor)


class Largest(nn.Module):
    """Divides by the largest absolute value."""

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x."""
        largest = x.abs().flatten(1).amax(1).clamp_min(self.floor)
        return x / largest.reshape(-1, *[1] * (x.dim() - 1))
'''
TRAIN = ["train", "data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "steps=3"]


@pytest.fixture(params=["file", "entry_point"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder for PYTHONPATH in which normbench has a norm `scratch`."""
    place = tmp_path / "path"
    place.mkdir()
    if request.param == "file":
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "normbench", place / "normbench", ignore=ignored)
        shutil.copytree(ROOT / "configs", place / "configs")
        (place / "normbench/norms/scratch.py").write_text(SCRATCH)
        (place / "configs/norm/scratch.yaml").write_text("name: scratch\nfloor: 0.1\n")
        return place
    install(place, SCRATCH)
    return place


def install(place: Path, text: str) -> None:
    """Put a package `elsewhere` with such a norm into a folder."""
    (place / "elsewhere.py").write_text(text)
    about = place / "elsewhere-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[normbench.norms]\nscratch = elsewhere:Scratch\n")


def test_a_new_norm_trains_is_listed_and_is_checked(path: Path, tmp_path: Path) -> None:
    done = run_with(path, tmp_path, *TRAIN, "norm=scratch", "norm.floor=0.2")
    assert done.returncode == 0, done.stderr
    assert "scratch(floor=0.2)" in done.stderr
    listed = run_with(path, tmp_path, "list", "norms", "scratch")
    assert "divides each sample by its largest absolute value" in listed.stdout
    wrong = run_with(path, tmp_path, *TRAIN, "norm=scratch", "norm.floor=-1")
    assert wrong.returncode == 2
    assert "norm.floor=-1: must be above 0" in wrong.stderr
    near = run_with(path, tmp_path, *TRAIN, "norm=scrach")
    assert near.stderr.splitlines()[1].startswith("  try: norm=scratch ")


def test_a_folder_of_ones_own_parts_is_known_where_the_command_names_it(tmp_path: Path) -> None:
    place, mine = tmp_path / "mine" / "norms", ("--parts", "mine")
    place.mkdir(parents=True)
    (place / "scratch.py").write_text(SCRATCH)
    done = normbench(*TRAIN, "norm=scratch", "norm.floor=0.2", *mine, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    listed = [normbench("list", "norms", *words, cwd=tmp_path).stdout for words in ((), mine)]
    assert ["(user)" in each for each in listed] == [False, True]
    assert document("probe", "outputs", *mine, cwd=tmp_path)["nets"]
    (place / "scratch.py").write_text(SCRATCH.replace("amax(1)", "mean(1)"))  # is another norm
    assert normbench(*TRAIN, "norm=scratch", "norm.floor=0.2", *mine, cwd=tmp_path).returncode == 0
    assert len(list(tmp_path.glob("outputs/runs/*"))) == 2
    unknown = normbench("probe", "outputs", cwd=tmp_path)
    assert unknown.returncode == 3
    assert "norm=scratch is no part of this normbench\n  try: --parts DIR" in unknown.stderr
    for name, text, why in (
        ("bn", SCRATCH, "norm=bn is there already"),
        ("late", "import nothing_here", "ModuleNotFoundError: No module named 'nothing_here'"),
        ("none_here", "x = 1", "0 classes derive from Norm, one is needed"),
    ):
        (place / f"{name}.py").write_text(text)
        refused = normbench(*TRAIN, "norm=scratch", *mine, cwd=tmp_path)
        assert refused.returncode == 2 and why in refused.stderr and "\n  try: " in refused.stderr
        (place / f"{name}.py").unlink()
    assert normbench("list", "--parts", "outputs", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("now", "before"),
    [
        ("normbench.parts.options import option", "normbench.options import option"),
        ("torch import Tensor", "normbench.inits._base import Lessons"),
    ],
)
def test_a_norm_for_an_earlier_layout_is_told_the_new_name(
    now: str, before: str, tmp_path: Path
) -> None:
    install(tmp_path, SCRATCH.replace(f"from {now}", f"from {before}"))
    done = run_with(tmp_path, tmp_path, *TRAIN, "norm=scratch")
    old = before.removesuffix(" import option").replace(" import ", ".")
    (line, _) = done.stderr.splitlines()
    start = "normbench: error: norm=scratch: elsewhere is written for an earlier normbench: "
    assert line == f"{start}{old} is now {NOW[old]}"
    assert done.returncode == 2


@pytest.mark.parametrize("new", sorted(set(NOW.values())))
def test_what_a_part_is_told_is_there(new: str) -> None:
    assert pkgutil.resolve_name(new)


def test_a_norm_that_reads_values_stays_eager_and_says_so(tmp_path: Path) -> None:
    reading = "clamp_min(float(x.detach().abs().amin()) + self.floor)"
    install(tmp_path, SCRATCH.replace("clamp_min(self.floor)", reading))
    words = [*TRAIN[1:], "norm=scratch"]
    told = "steps are not replayed: what it computes depends on values"
    shown = run_with(tmp_path, tmp_path, "summary", *words)
    assert told in shown.stdout, shown.stderr
    done = run_with(tmp_path, tmp_path, "train", *words, "capture=on")
    assert done.returncode == 0, done.stderr
    (status,) = tmp_path.glob("outputs/runs/*/*/status.json")
    assert told in status.read_text()
