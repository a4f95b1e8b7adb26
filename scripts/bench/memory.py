"""Peak resident memory of a run: `model=mlp` on MNIST against importing torch and the data alone.

The data set is held once, as uint8: 70,000 x 784 bytes are 52 MiB.
The figure is the ratio baseline over ours.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable

from run import Case

IMPORT = "import torch; from normbench.data.mnist import MNIST; MNIST().load()"
TRAIN = ["train", "model=mlp", "norm=bn", "batch=64", "steps=300", "-q"]


def peak(words: list[str]) -> Callable[[], float]:
    """Return a function that runs a Python process and gives its peak memory in MiB."""
    code = (
        "import resource, subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], "
        "stdout=subprocess.DEVNULL, check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )

    def once() -> float:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-c", code, *words],
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
            )
        return float(done.stdout)

    return once


def cases(quick: bool) -> list[Case]:
    """List the one case."""
    return [
        Case(
            name="peak memory, mlp on MNIST, CPU",
            baseline=peak(["-c", IMPORT]),
            ours=peak(["-m", "normbench", *TRAIN]),
            most=None,
            unit="MiB",
            repeats=3,
        )
    ]
