"""What a command costs before it computes anything: whole processes, wall time.

The baseline is a script that imports at its top what a tutorial's would, and then does nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from run import Case

TUTORIAL = "import torch, hydra, tensorboard"
COMMANDS = (  # words, most seconds, exit code
    (["--help"], 0.3, 0),
    (["--version"], 0.3, 0),
    (["train", "--help"], 1.0, 0),
    (["train", "norm=gm", "bach=2"], 1.0, 2),
    (["list", "norms"], 1.0, 0),
)


def timed(words: list[str], code: int) -> Callable[[], float]:
    """Return a function that runs a Python process and gives its seconds."""

    def once() -> float:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *words], capture_output=True, check=False)
        assert done.returncode == code, done.stderr
        return time.perf_counter() - start

    return once


def without_torch(words: list[str]) -> None:
    """Check that a command does not import torch."""
    code = (
        f"import sys; from normbench.cli.main import main\ntry: main({words!r})\n"
        "except SystemExit: pass\nsys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def cases(quick: bool) -> list[Case]:
    """List one case per command, and the bare interpreter for comparison."""
    empty = Case("empty Python", timed(["-c", ""], 0), baseline=timed(["-c", TUTORIAL], 0))
    return [
        empty,
        *(
            Case(
                name=f"normbench {' '.join(words)}",
                ours=timed(["-m", "normbench", *words], code),
                agree=lambda words=words: without_torch(words),
                below=below,
            )
            for words, below, code in COMMANDS
        ),
    ]
