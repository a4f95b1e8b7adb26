"""What it costs that nothing is lost: records and checkpoints of a run, and its start from one.

The share of a run is told by the run itself: its records and checkpoints are timed where they are
written, all else is its training and evaluation. A checkpoint is written beside a plain
`torch.save` of the same tensors, which is brought to the disk as well. A start counts from that of
the process to the end of its first new step. All are CPU time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from plan import FIRST
from run import Case

from normbench.rows import Halt
from normbench.runs import checkpoint, run, weights
from normbench.runs.directory import RunDirectory
from normbench.runs.job import Job
from normbench.runs.tensorboard import load_tensorboard
from normbench.runtime import machine
from normbench.settings import compose
from normbench.settings.schema import Config

WORKLOADS = (("cnn", 64), ("mlp", 2))
MOST = 0.02  # of a run, for its records and checkpoints
# a fifth above what was seen; the goal of 1 leaves no room for a SHA-256 beside torch's CRC-32
WRITTEN = {"mlp": 1.8, "cnn": 1.5, "vgg11": 2.4}
IMAGES = ("data=synthetic", "data.shape=[3,32,32]")
# a run that ends without a word once it has been kept
DIES = """
import os, sys
from normbench.runs.directory import RunDirectory
plain = RunDirectory.keep
def kept(*args):
    plain(*args)
    os._exit(0)
RunDirectory.keep = kept
"""
MAIN = "from normbench.cli.main import main\nsys.exit(main(sys.argv[1:]))"
TRAIN = ("train", "model=mlp", "batch=64", "steps=4000", "checkpoint_every=2000", "-q")


def configured(*words: str) -> Config:
    (cell,) = compose.Grid(compose.loader()).cells([*words, "device=cpu"], False)
    assert cell.config
    return cell.config


class Share:
    """One run, and how many of its seconds went into records and checkpoints."""

    PARTS = (
        (Job, "state"),
        (weights, "write"),
        *((RunDirectory, name) for name in ("write", "keep", "finish")),
    )

    def __init__(self, *words: str) -> None:
        self.words, self.kept = words, 0.0

    def __call__(self) -> float:
        """Train once and give the seconds of all that is not in `kept`."""
        self.kept = 0.0
        own = [(owner, name, getattr(owner, name)) for owner, name in self.PARTS]
        with tempfile.TemporaryDirectory() as folder:
            config = configured(*self.words, f"outputs={folder}")
            for owner, name, plain in own:
                setattr(owner, name, self._timed(plain))
            start = time.process_time()
            try:
                run.run(config)
            finally:
                for owner, name, plain in own:
                    setattr(owner, name, plain)
            return time.process_time() - start - self.kept

    def _timed(self, do: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(do)
        def timed(*args: Any, **named: Any) -> Any:
            start = time.process_time()
            try:
                return do(*args, **named)
            finally:
                self.kept += time.process_time() - start

        return timed


class Writing:
    """The state of a run, written as a checkpoint and by torch."""

    def __init__(self, model: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        state = Job(configured(f"model={model}", *IMAGES)).state(Halt())
        assert state
        self.tensors, self.about = state

    @property
    def mib(self) -> float:
        """Give the size of all tensors."""
        return sum(each.nbytes for each in self.tensors.values()) / 2**20

    def ours(self) -> float:
        """Write the checkpoint and return the seconds."""
        start = time.process_time()
        checkpoint.write(Path(self.folder.name, checkpoint.NAME), self.tensors, self.about)
        return time.process_time() - start

    def theirs(self) -> float:
        """Let torch write the same and return the seconds."""
        start = time.process_time()
        with Path(self.folder.name, "checkpoint.pt").open("wb") as file:
            torch.save({"tensors": self.tensors, "about": self.about}, file)
            file.flush()
            os.fsync(file.fileno())
        return time.process_time() - start


class Starts:
    """A run that was killed after a checkpoint, and what its start takes, and that of a new one."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.killed = Path(self.folder.name, "killed")
        self.killed.mkdir()
        subprocess.run([sys.executable, "-c", DIES + MAIN, *TRAIN], cwd=self.killed, check=True)

    def fresh(self) -> float:
        """Return the seconds of a new run up to its first step."""
        return self._first(TRAIN)

    def resumed(self) -> float:
        """Return the seconds of the killed run up to its first new step."""
        (run,) = Path(self.killed, "outputs").glob("**/seed0")
        return self._first(("resume", str(run.relative_to(self.killed)), "-q"), self.killed)

    def _first(self, words: tuple[str, ...], source: Path | None = None) -> float:
        with tempfile.TemporaryDirectory() as folder:
            if source:
                shutil.copytree(source, folder, dirs_exist_ok=True)
            command = [sys.executable, "-c", FIRST + MAIN, *words]
            with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as child:
                assert child.stderr
                line = next(line for line in child.stderr if line.startswith("first"))
                child.kill()
            return float(line.split()[1])


def cases(quick: bool) -> Iterator[Case]:
    """Yield the shares of whole runs, then writes, then starts."""
    machine.prepare(1)
    load_tensorboard()
    for model, batch in WORKLOADS:
        share = Share(f"model={model}", f"batch={batch}", *(["steps=2000"] if quick else []))
        yield Case(
            f"records and checkpoints of {model} at batch {batch} / the rest",
            lambda share=share: share.kept,
            share,
            most=MOST,
            repeats=1 if quick else 3,
            warm=False,
        )
    for model, most in WRITTEN.items():
        writing = Writing(model)
        name = f"checkpoint of {model}, {writing.mib:.1f} MiB / torch.save and fsync"
        yield Case(name, writing.ours, writing.theirs, most=most, repeats=21)
    starts = Starts()
    yield Case("first step of a resumed run / a fresh one", starts.resumed, starts.fresh, most=1.3)
