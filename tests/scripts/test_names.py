"""Scripts, which no other test runs whole, use what the package has today."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOLD = ("[attr-defined]", "[union-attr]", "[call-arg]")  # of mypy's errors


def python(folder: str) -> list[str]:
    files = sorted(path for path in (ROOT / folder).iterdir() if path.is_file())
    return [str(path) for path in files if "python" in path.read_text().partition("\n")[0]]


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["scripts", "scripts/bench", "scripts/gpu"])
def test_every_name_that_a_script_takes_is_there(
    folder: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = python(folder) if folder == "scripts" else [*map(str, (ROOT / folder).glob("*.py"))]
    # `mutate` reads trees of source text, of which mypy knows too little; `statistics` would be
    # taken for the module that others import.
    files = [path for path in files if not path.endswith(("mutate", "statistics"))]
    cache = tmp_path_factory.getbasetemp() / "mypy"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file", os.devnull, "--check-untyped-defs"),
            *("--ignore-missing-imports", "--scripts-are-modules"),
            *("--cache-dir", str(cache), *files),
        ],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": f"{ROOT / folder}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    assert "checked" in done.stdout.splitlines()[-1], done.stdout + done.stderr
    wrong = [line for line in done.stdout.splitlines() if line.endswith(TOLD)]
    assert not [line for line in wrong if line.startswith("scripts")]
