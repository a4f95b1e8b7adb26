"""Row 5: a process dies inside a file operation; the run goes on to the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faults.points import POINTS

pytestmark = pytest.mark.slow
COUNTS = (1, 3, 6)  # at the first files, at the status, at a checkpoint


def deaths(place: Path, *counts: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "faults.deaths", str(place), *map(str, counts)]
    path = os.pathsep.join(filter(None, sys.path))
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return deaths(tmp_path_factory.mktemp("deaths"), *COUNTS)


@pytest.mark.parametrize("point", POINTS)
def test_row_5_a_run_that_dies_inside_a_file_operation_goes_on_to_the_same_bits(
    point: str, some: dict[str, Any]
) -> None:
    assert some[point] == list(COUNTS)


def test_row_5_at_every_single_file_operation(tmp_path: Path) -> None:
    for point, counts in deaths(tmp_path).items():
        assert isinstance(counts, list) and len(counts) > max(COUNTS), f"{point}: {counts}"
