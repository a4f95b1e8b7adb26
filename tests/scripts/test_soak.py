"""A short soak: runs and sweeps that are killed at random moments come to the same bits."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "scripts/soak"


@pytest.mark.slow
def test_runs_and_sweeps_that_are_killed_at_random_come_to_the_same_bits() -> None:
    command = [sys.executable, str(SOAK), "--kills", "20", "--sweeps", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"(\d+) kills of (runs|sweeps) in (\d+) configurations", done.stdout)
    (runs, sweeps) = found
    assert runs[1] == "runs" and int(runs[0]) >= 20 and int(runs[2]) >= 12
    assert sweeps[1] == "sweeps" and int(sweeps[0]) >= 5
