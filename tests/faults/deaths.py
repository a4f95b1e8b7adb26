"""Runs that die at points of their file operations and go on.

    python -m faults.deaths PLACE [COUNT ...]    without a count: each time that a point is passed

One process composes the run and loads torch; each death and each resumption is a fork of it. Prints
a JSON object: for each point the times at which it was passed, or what was wrong afterwards.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from faults.points import POINTS, install

from normbench import config
from normbench.cli.main import main
from normbench.display import console, screen  # noqa: F401  (loaded for the forks)
from normbench.parts import registry
from normbench.runs import build, judge, run  # noqa: F401
from normbench.runs.reader import METRICS, read_status
from normbench.runs.tensorboard import load_tensorboard
from normbench.runs.verify import verify
from normbench.settings.schema import Config
from normbench.sweeps import records, remembered, sweep  # noqa: F401

RUN = (
    *("data=synthetic", "data.shape=[1,8,8]", "data.train_size=64", "model=mlp", "model.width=8"),
    *("device=cpu", "batch=4", "steps=24", "log_every=8", "eval_every=1", "checkpoint_every=9"),
    *("capture=off", "diagnose=off"),
)
EVERY = 1000  # more than any point is passed in such a run


def forked(do: Callable[[], object]) -> int:
    """Do something in a silent fork; return its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(sys.__stderr__):
                code = int(bool(do()))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def warm(chosen: Config) -> None:
    """Load once what every fork needs."""
    load_tensorboard()
    build.scaling(chosen)
    for group in registry.KINDS:
        registry.find(group, getattr(chosen, group)["name"])


def bits(folder: Path) -> tuple[bytes, object]:
    """What equal runs have in common."""
    return (folder / METRICS).read_bytes(), (read_status(folder) or {}).get("state_sha256")


def died(place: Path, fault: str, whole: Path) -> str | None:
    """Let a run die and go on; None if it was not killed, else what is wrong, empty if nothing."""
    chosen = config(*RUN, f"outputs={place}")
    folder = chosen.directory

    def dies() -> None:
        install(fault)
        run.run(chosen)

    if (code := forked(dies)) != -9:
        return None if code == 0 else f"exit code {code}"
    if wrong := [str(error) for error in verify(folder)]:
        return wrong[0]
    begun = (folder / "status.json").exists()
    code = forked(lambda: main(["resume", str(folder), "-q"]) if begun else run.run(chosen) == "")
    if code or bits(folder) != bits(whole):
        return f"exit code {code}, and other bits" if code == 0 else f"exit code {code}"
    left = [path.name for path in folder.iterdir() if ".tmp-" in path.name]
    return f"{left} were left" if left else ""


def deaths(place: Path, point: str, whole: Path, counts: Iterable[int]) -> list[int] | str:
    """Die at a point at each of some times; give those at which it came there, or what is wrong."""
    died_at = []
    for count in counts:
        wrong = died(place / point / str(count), f"{point}:{count}", whole)
        if wrong is None:
            break
        if wrong:
            return f"{point}:{count}: {wrong}"
        died_at.append(count)
    return died_at


if __name__ == "__main__":
    place, counts = Path(sys.argv[1]), list(map(int, sys.argv[2:])) or range(1, EVERY)
    whole = config(*RUN, f"outputs={place / 'whole'}")
    warm(whole)
    assert forked(lambda: run.run(whole) == "") == 0
    print(json.dumps({point: deaths(place, point, whole.directory, counts) for point in POINTS}))
