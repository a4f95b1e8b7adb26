"""Planning and starting: what passes before the first step, and between two runs of a sweep.

Whole processes, CPU time but for the first line on a terminal, which is wall time. The first step
counts from the start of the process to the end of one step of the mlp, beside `import torch` alone.
"""

from __future__ import annotations

import os
import pty
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from run import Case

TRAIN = [sys.executable, "-m", "normbench", "train"]
PLANS = {
    "100 cells": ["norm=bn,gn,ln,none,rms", "batch=2,8,32,128", "seed=range(5)"],
    "1,000 cells": ["norm=bn,gn,ln,none,rms", "batch=2,4,8,16,32,64,128,200", "seed=range(25)"],
    "1,000 learning rates": ["norm=bn,gn", "optimizer.lr=range(1,11)", "init.gain=range(1,51)"],
}
FIRST = """
import sys, time
from normbench.engine.train import TrainStep
plain = TrainStep.__call__
def told(step, batch, lr):
    plain(step, batch, lr)
    print("first", time.process_time(), file=sys.stderr, flush=True)
    TrainStep.__call__ = plain
TrainStep.__call__ = told
"""  # says when a process has made its first step
FIRST_STEP = f"""{FIRST}
from normbench.cli.main import main
main(["train", "model=mlp", "batch=64", "steps=2", "eval_every=100000", "-q"])
"""
IMPORT = "import sys, time, torch; print('first', time.process_time(), file=sys.stderr)"
FURTHER = (5, 25)  # runs of two sweeps, of ten steps each: what each further one takes


def cpu(command: list[str]) -> float:
    """Run a command in an empty folder and return the CPU seconds of all its processes."""
    with tempfile.TemporaryDirectory() as folder:
        before = _children()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def told(code: str) -> Callable[[], float]:
    """Return a function that gives the CPU seconds which a Python process tells of itself."""

    def once() -> float:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        return float(done.stderr.split("first")[1].split()[0])

    return once


def first_line() -> float:
    """Return the wall seconds until a training has written to its terminal."""
    command = [*TRAIN, "model=mlp", "steps=1"]
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = pty.openpty()
        start = time.perf_counter()
        child = subprocess.Popen(command, cwd=folder, stdout=theirs, stderr=theirs)
        os.read(ours, 1)
        took = time.perf_counter() - start
        child.kill()
        child.wait()
        os.close(theirs)
        os.close(ours)
    return took


def further(words: list[str]) -> Callable[[], float]:
    """Return a function that gives the CPU milliseconds of one more run in a sweep."""

    def once() -> float:
        few, many = (
            cpu([*TRAIN, "-m", "model=mlp", "steps=10", "jobs=1", "-q", *words, f"seed=range({n})"])
            for n in FURTHER
        )
        return 1e3 * (many - few) / (FURTHER[1] - FURTHER[0])

    return once


def cases(quick: bool) -> list[Case]:
    """List one case per command."""
    verbs = {"summary": 3.0, "doctor": 4.2}
    plans = [
        Case(
            f"plan of {name}",
            lambda words=words: cpu([*TRAIN, "-m", "dry_run=true", "max_cells=1000", *words]),
            below=4.0,
            repeats=3,
        )
        for name, words in PLANS.items()
    ]
    return [
        *plans,
        *(
            Case(
                f"normbench {verb}",
                lambda verb=verb: cpu([sys.executable, "-m", "normbench", verb]),
                below=most,
                repeats=3,
            )
            for verb, most in verbs.items()
        ),
        Case("first line of train, wall", first_line, below=1.2, repeats=5),
        Case("first step of a process / import torch", told(FIRST_STEP), told(IMPORT), most=2.2),
        Case("a further run of 10 steps", further([]), repeats=1, warm=False, unit="ms"),
        Case(
            "a further run of 10 steps, validated once",
            further(["eval_every=100000"]),
            below=300,
            repeats=1,
            warm=False,
            unit="ms",
        ),
    ]
