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

from normbench import grid, machine
from normbench.config import Config
from normbench.record import Record
from normbench.run import Job, hparams
from normbench.train import Schedule

WORKLOADS = (("mlp", 2, 1.10), ("mlp", 32, 1.05), ("mlp", 128, 1.05), ("cnn", 32, 1.05))


def configured(model: str, batch: int, steps: int) -> Config:
    words = [f"model={model}", "norm=bn", f"batch={batch}", f"steps={steps}", "device=cpu"]
    # one validation at the end, which the timing leaves out
    (cell,) = grid.Grid(grid.loader()).cells([*words, "eval_every=100000"], False)
    assert cell.config
    return cell.config


def by_hand(config: Config) -> tuple[float, Job]:
    """The step an expert would write, with nothing around it."""
    job = Job(config)
    model, stepper, feed = job.model.train(), job.stepper, job.train
    order = feed.order(config.seed, 0, config.batch)[: config.steps]
    schedule = Schedule(config.schedule, config.lr, len(order), config.warmup)
    total = torch.zeros(())
    start = time.process_time()
    for step, index in enumerate(order):
        x, y = feed.gather(index)
        loss = F.cross_entropy(model(x), y)
        stepper.zero_grad()
        loss.backward()
        stepper.step(schedule(step))
        total += loss.detach()
    return time.process_time() - start, job


def through_normbench(config: Config) -> tuple[float, Job]:
    """`fit` with training rows every 50 steps, recorded in files and TensorBoard."""
    job = Job(config)
    settings = {"experiment": config.experiment(), "execution": config.execution()}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        how = {"tb": True, "tb_axis": "examples", "hparams": hparams(config)}
        with Record(place, settings, {}, **how) as record:
            rows = job.rows()
            next(rows)  # the validation at step 0
            start = time.process_time()
            for row in rows:
                record.write(row)
                if row.step == config.steps:  # the last training row; validation comes after it
                    break
            return time.process_time() - start, job


def agree(config: Config) -> None:
    """Both sides must leave the same weights and optimizer state, to the bit."""
    digests = {side(config)[1].state_sha256() for side in (by_hand, through_normbench)}
    if len(digests) != 1:
        raise AssertionError("the two sides do not compute the same thing")


def cases(quick: bool) -> list[Case]:
    """List one case per workload."""
    machine.prepare(1)
    found = []
    for model, batch, most in WORKLOADS:
        steps = (200 if model == "cnn" else 1000) // (4 if quick else 1)
        config = configured(model, batch, min(steps, 55_000 // batch))
        found.append(
            Case(
                name=f"step {model} batch {batch}, {config.steps} steps, CPU time",
                baseline=lambda config=config: by_hand(config)[0],
                ours=lambda config=config: through_normbench(config)[0],
                agree=lambda config=config: agree(config),
                most=most,
            )
        )
    return found
