"""One epoch of the mlp on MNIST at batch 64: data on the device against a DataLoader.

The baseline is the loop of a tutorial: torchvision's MNIST with ToTensor and Normalize, a
DataLoader, torch.optim.SGD, `loss.item()` at each step. Both sides start from the same weights
and see the same batches in the same order.
"""

from __future__ import annotations

import gzip
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from run import Case
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from normbench.data import mnist
from normbench.data._base import split, validation_size
from normbench.runs.job import Job
from normbench.runtime import machine
from normbench.settings import compose
from normbench.settings.schema import Config

CHECKED = 5  # steps whose losses must agree
TOLERANCE = 1e-4
SETTINGS = "model=mlp norm=bn batch=64 device=cpu schedule=constant warmup=0 eval_every=100000"


def configured(steps: int, log_every: int) -> Config:
    words = [*SETTINGS.split(), "optimizer.weight_decay=0", f"log_every={log_every}"]
    (cell,) = compose.Grid(compose.loader()).cells([*words, f"steps={steps}"], False)
    assert cell.config
    return cell.config


def tutorial_data() -> datasets.MNIST:
    """The package's MNIST as torchvision reads it."""
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root) / "MNIST/raw"
        raw.mkdir(parents=True)
        for file in mnist.ALL:
            unpacked = gzip.decompress((mnist.FILES / file.name).read_bytes())
            (raw / file.name.removesuffix(".gz")).write_bytes(unpacked)
        constants = transforms.Normalize(mnist.MNIST.mean, mnist.MNIST.std)
        return datasets.MNIST(
            root, transform=transforms.Compose([transforms.ToTensor(), constants])
        )


def tutorial_model() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for features in (784, 100, 100):
        layers += [nn.Linear(features, 100, bias=False), nn.BatchNorm1d(100), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(100, 10))


class Epoch(NamedTuple):
    """What an epoch took and the losses it saw."""

    cpu_s: float
    wall_s: float
    losses: list[float]


def clocks() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def since(start: tuple[float, float], losses: list[float]) -> Epoch:
    cpu, wall = clocks()
    return Epoch(cpu - start[0], wall - start[1], losses)


def tutorial(config: Config, data: datasets.MNIST) -> Epoch:
    """Train as a tutorial does."""
    job = Job(config)
    model = tutorial_model().train()
    with torch.no_grad():
        for mine, other in zip(model.parameters(), job.model.parameters(), strict=True):
            mine.copy_(other)
    _, train = split(data.targets.numpy(), validation_size(len(data)))
    order = job.train.order(config.seed, 0, config.batch)[: config.steps]
    loader = DataLoader(data, batch_size=config.batch, sampler=train[order.flatten()].tolist())
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=0.9)
    losses = []
    start = clocks()
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return since(start, losses)


def through_normbench(config: Config) -> Epoch:
    """Train through `fit`; the losses are those of its training rows."""
    rows = Job(config).rows()
    next(rows)  # the validation at step 0
    losses = []
    start = clocks()
    for row in rows:
        losses.append(row.values["train/loss"])
        if row.step == config.steps:  # the last training row; validation comes after it
            break
    return since(start, losses)


def agree(data: datasets.MNIST) -> None:
    """The losses of the first steps must be the same."""
    config = configured(CHECKED, log_every=1)
    theirs, ours = tutorial(config, data).losses, through_normbench(config).losses
    apart = max(abs(a - b) for a, b in zip(theirs, ours, strict=True))
    if apart > TOLERANCE:
        raise AssertionError(f"the losses of the first steps differ by {apart:.2g}")


def cases(quick: bool) -> list[Case]:
    """List the one case; its note tells the ratio in wall time."""
    machine.prepare(1)
    data = tutorial_data()
    config = configured(100 if quick else 55_000 // 64, log_every=50)
    walls: dict[str, list[float]] = {"tutorial": [], "ours": []}

    def clocked(name: str, side: Callable[[], Epoch]) -> float:
        epoch = side()
        walls[name].append(epoch.wall_s)
        medians = {key: statistics.median(each) for key, each in walls.items() if each}
        if len(medians) == 2:
            case.note = f"wall {medians['tutorial'] / medians['ours']:.3g}x"
        return epoch.cpu_s

    case = Case(
        name=f"epoch mlp batch 64, {config.steps} steps, CPU time",
        baseline=lambda: clocked("tutorial", lambda: tutorial(config, data)),
        ours=lambda: clocked("ours", lambda: through_normbench(config)),
        agree=lambda: agree(data),
        least=5,
    )
    return [case]
