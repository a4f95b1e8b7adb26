"""What a command shows before torch is imported, and when it shows the rest."""

from __future__ import annotations

import importlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import normbench

from normbench.cli.main import VERBS
from normbench.cli.training import planned
from normbench.display.screen import Screen
from normbench.errors import Refused
from normbench.settings import compose

TINY = ["data=synthetic", "data.shape=[1,8,8]", "model=mlp", "device=cpu"]


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What stood on the screen when the check began, and what stood there in the end."""

    importlib.import_module("torch")  # that it is being loaded would stand on the screen as well

    def plan(*words: str, terminal: bool) -> tuple[str, str]:
        stream, before = Stream(terminal), []
        monkeypatch.setattr(
            "normbench.sweeps.sweep.check", lambda work: before.append(stream.getvalue()) or []
        )
        line = [*TINY, *words, f"outputs={tmp_path}"]
        cells = compose.Grid(compose.loader()).cells(line, True)
        planned(cells, Screen(stream=stream, color=False))
        return before[0], stream.getvalue()

    return plan


def test_on_a_terminal_the_heading_comes_before_the_check(seen) -> None:
    before, after = seen("norm=gn", terminal=True)
    assert "mlp | gn" in before and before == after


def test_elsewhere_a_refusal_stands_alone(seen) -> None:
    before, after = seen("norm=gn", terminal=False)
    assert before == "" and "mlp | gn" in after


def test_cells_that_may_be_left_out_are_counted_after_the_check(seen) -> None:
    before, after = seen("norm=gn,bn", "skip_invalid=true", terminal=True)
    assert before == "" and "plan: 2 runs" in after


def test_runs_whose_learning_rate_is_to_be_chosen_are_shown_by_their_tuning(seen) -> None:
    assert seen("norm=gn,bn", "tune=lr", terminal=True) == ("", "")


def test_what_is_not_swept_is_refused_before_anything_is_shown(tmp_path: Path) -> None:
    stream = Stream(terminal=True)
    words = [*TINY, "compare=norm", f"outputs={tmp_path}"]
    cells = compose.Grid(compose.loader()).cells(words, True)
    with pytest.raises(Refused, match="compare=norm: is not swept"):
        planned(cells, Screen(stream=stream))
    assert stream.getvalue() == ""


def test_the_heading_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, io; from normbench.cli.training import planned; "
        "from normbench.settings import compose; from normbench.display.screen import Screen; "
        "from normbench.sweeps import sweep\n"
        "sweep.check = lambda work: sys.exit(10 + ('torch' in sys.modules))\n"
        "class Tty(io.StringIO): isatty = lambda self: True\n"
        "planned(compose.Grid(compose.loader()).cells(['data=synthetic'], False), "
        "Screen(stream=Tty()))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 10


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_fits_into_80_columns_and_into_60(verb: str, tmp_path: Path) -> None:
    for columns in (80, 60):
        words = filter(None, [verb, "--help"])
        done = normbench(*words, cwd=tmp_path, COLUMNS=str(columns))
        assert done.returncode == 0
        assert [line for line in done.stdout.splitlines() if len(line) > columns] == []


def test_the_help_of_train_knows_every_setting_of_the_readme(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    told = normbench("train", "--help", cwd=tmp_path).stdout
    commands = re.findall(r"normbench train (.*?)(?:   |\n|`)", readme)
    keys = set(re.findall(r"([a-z_]+)(?:\.[a-z_.]+)?=", " ".join(commands)))
    assert keys - {"bach"} and all(f"\n{key}=" in told for key in keys - {"bach"})
    assert "normbench list norms NAME" in told  # where the options of parts are
