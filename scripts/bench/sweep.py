"""Whole sweeps: one command of normbench against `naive_sweep`, a process per run.

The naive side has no curves: it tests once, at the end. normbench's side is the command as the
README has it, with its eleven validations, its records and its table; `bare` is the same with one
validation. On one core both sides have one thread; on two, the naive one has torch's default.
A sweep takes minutes, so it runs once, without a warm-up.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from run import CORES, Case

NAIVE = Path(__file__).resolve().parent / "naive_sweep"
ONCE = "eval_every=100000"
FEW = 50  # steps of the quick sweep: too few to compare what they come to
APART = 0.05  # in test accuracy, between the sides, where batches are not tiny


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep."""

    models: str
    norms: str
    batches: str
    seeds: int
    images: int  # to train on
    steps: int = 0  # 0 for one epoch

    @property
    def naive(self) -> list[str]:
        """Give the command of the naive side."""
        lists = (self.models, self.norms, self.batches, self.seeds, self.images, self.steps)
        return [sys.executable, str(NAIVE), *map(str, lists)]

    def ours(self, *words: str) -> list[str]:
        """Give normbench's command."""
        length = [f"steps={self.steps}"] if self.steps else []
        given = [f"model={self.models}", f"norm={self.norms}", f"batch={self.batches}"]
        given += [f"seeds={self.seeds}", f"data.train_size={self.images}", "device=cpu", *length]
        return [sys.executable, "-m", "normbench", "train", "-m", "--json", *given, *words]


@dataclass
class Side:
    """One side of a sweep: its command, and what its processes took each time."""

    command: list[str]
    cores: set[int]
    threads: str | None = "1"
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    output: str = ""

    def __call__(self) -> float:
        """Run the command in an empty folder and return its CPU seconds."""
        env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        if self.threads:
            env["OMP_NUM_THREADS"] = self.threads
        before, start = _children(), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                self.command,
                cwd=folder,
                env=env,
                check=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                preexec_fn=lambda: os.sched_setaffinity(0, self.cores),
            )
        self.wall.append(time.perf_counter() - start)
        self.cpu.append(_children() - before)
        self.output = done.stdout
        return self.cpu[-1]


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def accuracies(naive: str, ours: str) -> Iterator[tuple[str, float, float]]:
    """Yield model, norm and batch as words, and the mean test accuracy of both sides."""
    found: dict[str, list[float]] = {}
    for line in naive.splitlines():
        *cell, _, accuracy = line.split()
        found.setdefault(" ".join(cell), []).append(float(accuracy))
    for run in json.loads(ours)["runs"]:
        config = run["config"]
        name = f"{config['model']['name']} {config['norm']['name']} {config['batch']}"
        yield name, sum(found[name]) / len(found[name]), run["mean"]


def check(naive: Side, ours: Side) -> None:
    """Both sides must have come to the same accuracy, where more than a few values decide it."""
    for name, theirs, mine in accuracies(naive.output, ours.output):
        if int(name.split()[-1]) > 2 and abs(theirs - mine) > APART:
            raise AssertionError(f"{name}: {theirs:.3f} and {mine:.3f}")


def cases(quick: bool) -> Iterator[Case]:
    """Yield CPU and wall time of the README's sweep, and of the 48 runs of W1."""
    images, steps = (3_000, FEW) if quick else (20_000, 0)
    readme = Grid("mlp", "none,bn,gn", "2,32", 1, images, steps)
    one = {max(CORES)}
    yield from _compared("README's sweep, one seed, one core", readme, one, 3.8)
    if not quick:
        both = Grid("mlp,cnn", "bn,gn,none", "2,32", 4, 50_000, 1000)
        half = Grid("mlp", "bn,gn,none", "2,32", 4, 50_000, 1000)
        yield from _compared("W1, 48 runs, all cores", both, CORES)
        yield from _compared("W1, its mlp half, all cores", half, CORES)


def _compared(name: str, grid: Grid, cores: set[int], least: float | None = None) -> Iterator[Case]:
    threads = "1" if len(cores) == 1 else None
    naive, ours, bare = (
        Side(command, cores, given)
        for command, given in (
            (grid.naive, threads),
            (grid.ours(), "1"),
            (grid.ours(ONCE), "1"),
        )
    )
    yield Case(f"{name}, CPU", ours, naive, least=least, repeats=1, warm=False)
    yield Case(
        f"{name}, wall", lambda: ours.wall[-1], lambda: naive.wall[-1], repeats=1, warm=False
    )
    yield Case(f"{name}, bare, CPU", bare, lambda: naive.cpu[-1], repeats=1, warm=False)
    walls = (lambda: bare.wall[-1], lambda: naive.wall[-1])
    yield Case(f"{name}, bare, wall", *walls, repeats=1, warm=False)
    if grid.steps != FEW:
        check(naive, ours)
