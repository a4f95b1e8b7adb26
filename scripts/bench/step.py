"""The framework tax: `fit` with its rows and records against the same step written out by hand.

The baseline has the same model, data path and optimizer: gather a batch, forward, cross-entropy,
backward, SGD with momentum, add the loss to a running sum.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from run import Case

from normbench.runs.directory import RunDirectory
from normbench.runs.job import Job
from normbench.runs.tensorboard import hparams
from normbench.runtime import machine
from normbench.settings import compose
from normbench.settings.schema import Config, part

SLICE = 50  # steps between two training rows
WORKLOADS = (("mlp", 2, 1.10), ("mlp", 32, 1.05), ("mlp", 128, 1.05), ("cnn", 32, 1.05))


def configured(model: str, batch: int, steps: int) -> Config:
    words = [f"model={model}", "norm=bn", f"batch={batch}", f"steps={steps}", "device=cpu"]
    # one validation at the end, which the timing leaves out
    (cell,) = compose.Grid(compose.loader()).cells([*words, "eval_every=100000"], False)
    assert cell.config
    return cell.config


class ByHand:
    """The step an expert would write, with nothing around it."""

    def __init__(self, config: Config) -> None:
        self.job = job = Job(config)
        job.model.train()
        self.order = iter(job.train.order(config.seed, 0, config.batch)[: config.steps])
        schedule = part("schedule", config.schedule)
        self.schedule = schedule.over(config.steps, config.lr, config.warmup)
        self.total, self.step = torch.zeros(()), 0

    def __call__(self) -> float:
        """Train SLICE steps and return their CPU seconds."""
        model, stepper, feed = self.job.model, self.job.optimizer, self.job.train
        start = time.process_time()
        for _ in range(SLICE):
            x, y = feed.gather(next(self.order))
            loss = F.cross_entropy(model(x), y)
            stepper.zero_grad()
            loss.backward()
            stepper.step(self.schedule(self.step))
            self.total += loss.detach()
            self.step += 1
        return time.process_time() - start


class Through:
    """`fit`, with a training row every SLICE steps, recorded in files and TensorBoard."""

    def __init__(self, config: Config) -> None:
        self.job = Job(config)
        settings = {"experiment": config.experiment(), "execution": config.execution()}
        self.folder = tempfile.TemporaryDirectory()
        how = {"tb": True, "tb_axis": "examples", "hparams": hparams(config)}
        self.record = RunDirectory(Path(self.folder.name) / "run", settings, {}, **how).__enter__()
        self.rows = self.job.rows()
        next(self.rows)  # the validation at step 0

    def __call__(self) -> float:
        """Train up to the next training row and return the CPU seconds."""
        start = time.process_time()
        self.record.write(next(self.rows))
        return time.process_time() - start


def agree(config: Config) -> None:
    """Both sides must leave the same weights and optimizer state, to the bit."""
    digests = set()
    for side in (ByHand(config), Through(config)):
        side()
        digests.add(side.job.state_sha256())
    if len(digests) != 1:
        raise AssertionError("the two sides do not compute the same thing")


def cases(quick: bool) -> list[Case]:
    """List one case per workload; the sides take turns every SLICE steps."""
    machine.prepare(1)
    repeats = 15 if quick else 60
    found = []
    for model, batch, most in WORKLOADS:
        slices = min(repeats, 55_000 // batch // SLICE - 2)
        config = configured(model, batch, SLICE * (slices + 2))
        found.append(
            Case(
                name=f"step {model} batch {batch}, {SLICE} steps, CPU time",
                baseline=ByHand(config),
                ours=Through(config),
                agree=lambda config=config: agree(config),
                most=most,
                repeats=slices,
            )
        )
    return found
