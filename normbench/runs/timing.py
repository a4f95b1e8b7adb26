"""Times norm layers and training steps: what a run has of them, side by side."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.errors import NormError
from normbench.norms._units import Conv2d, Linear
from normbench.runs import build
from normbench.runs.job import Job
from normbench.runs.run import memory_errors
from normbench.runtime import machine, rng
from normbench.settings.schema import Config

REPEATS = 20  # samples of a figure
WARM = 4  # steps until one is replayed, as most of a run are
LEAST_S = 2e-3  # a sample covers as many calls as take about this long
SYNCHRONIZE = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}

Action = Callable[[], object]


@dataclass(frozen=True)
class Figure:
    """How long one call takes: samples in seconds."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the middle of the samples."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Return half the distance between the quartiles."""
        low, _, high = statistics.quantiles(self.samples, n=4)
        return (high - low) / 2


@dataclass(frozen=True)
class Timed:
    """What is timed for a config: actions by name; and the bytes kept for a backward pass.

    linear: whether a layer of a norm comes with the linear layer that it takes the place of.
    """

    config: Config
    actions: dict[str, Action]
    kept: int
    linear: bool = False


def layer(config: Config, size: Sequence[int]) -> Timed:
    """Return what times the norm of a config on one input of noise.

    It is the norm's layer; a norm of weights comes with its 3x3 convolution, or its dense layer.

    Args: size: channels, then height and width, or nothing for features of a dense layer.
    Raises: NormError if the norm does not fit or puts nothing into a net; MachineError without
        memory.
    """
    with memory_errors(config):
        norm, device = build.norm(config), torch.device(config.device)
        spatial = len(size) > 1 and norm.memory_format == "channels_last"
        form = torch.channels_last if spatial else torch.contiguous_format
        linear, behind = _parts(config, size[0], len(size) - 1)
        module = nn.Sequential(*filter(None, (linear, behind))).train()
        module.to(device).to(memory_format=form)
        noise = torch.randn(config.batch, *size, generator=rng.generator(config.seed, "noise", 0))
        x = noise.to(device).contiguous(memory_format=form).requires_grad_()

        def forward() -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                y: Tensor = module(x)
            return y

        wanted, grad = [x, *module.parameters()], torch.ones_like(forward())

        def both() -> None:
            torch.autograd.grad(forward(), wanted, grad, allow_unused=True)

        actions: dict[str, Action] = {"forward": forward, "both": both}
        return Timed(config, actions, _kept(module, forward), linear is not None)


def step(config: Config, whole: bool = False) -> Timed:
    """Return what times whole training steps of a config, by the engine that trains runs.

    Args: whole: time also how long taking running statistics over all training images lasts.
    Raises: MachineError without memory.
    """
    with memory_errors(config):
        job = Job(replace(config, capture="off" if config.capture == "off" else "on"))
        job.evaluator.begin(0)
        batches = (batch for epoch in count() for batch in job.train.epoch(epoch))

        def once() -> None:
            job.train_step(next(batches), config.lr)

        x, y = next(batches)

        def forward() -> Tensor:
            with job.train_step.cast():
                return F.cross_entropy(job.model(x), y)

        kept = _kept(job.model, forward)
        for _ in range(WARM):
            once()
        actions: dict[str, Action] = {"step": once}
        if whole and build.norm(config).has_modes():
            actions["pass"] = job.evaluator.refresh
        return Timed(config, actions, kept)


def measure(cases: Sequence[Timed]) -> Iterator[dict[str, Figure]]:
    """Time all cases in turns, after a warm-up, and yield the figures of each.

    CPU time of one thread, which neighbours on the machine change least, or else wall time.
    """
    calls = [
        {name: _calls(case.config, each) for name, each in case.actions.items()} for case in cases
    ]
    found: list[dict[str, list[float]]] = [{name: [] for name in case.actions} for case in cases]
    for _ in range(REPEATS):
        for case, number, samples in zip(cases, calls, found, strict=True):
            for name, action in case.actions.items():
                samples[name].append(_seconds(case.config, action, number[name]) / number[name])
    for samples in found:
        yield {name: Figure(tuple(each)) for name, each in samples.items()}


def throughput(config: Config) -> dict[str, float]:
    """Time steps of a config: `ln_image_s` and, of a norm with running statistics, `ln_pass`.

    Returns: ln(seconds of a step / its images), and ln(seconds of taking the running statistics
    over all training images / those of a step).
    """
    (found,) = measure([step(config, whole=True)])
    middle = found["step"].median
    metrics = {"ln_image_s": math.log(middle / config.batch)}
    if "pass" in found:
        metrics["ln_pass"] = math.log(found["pass"].median / middle)
    return metrics


def clock(config: Config) -> str:
    """Name the clock of a figure."""
    return "CPU time" if config.device == "cpu" and config.threads == 1 else "wall time"


def _parts(config: Config, channels: int, dims: int) -> tuple[nn.Module | None, nn.Module | None]:
    """Return what a norm puts into a net: in place of a linear layer, and behind it."""
    norm, name, plain = build.norm(config), config.norm["name"], _linear(channels, dims)
    with torch.no_grad():
        plain.weight.normal_(generator=rng.generator(config.seed, "init", "weight"))
    replaced, behind = norm.linear(plain), norm.layer(channels, dims)
    linear = None if replaced is plain else replaced
    if behind is linear is None and norm.norms_features():
        behind = norm.activation(None, channels, dims)
    if behind is linear is None:
        raise NormError("", name, "puts no layer into a net", f"norm={name} model=cnn")
    return linear, behind


def _linear(channels: int, dims: int) -> Conv2d | Linear:
    if dims:
        return Conv2d(channels, channels, 3, padding=1, bias=False)
    return Linear(channels, channels, bias=False)


def _kept(module: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Count the bytes that a forward pass keeps for the backward pass, without the module's own."""
    tensors = chain(module.parameters(), module.buffers())
    own = {each.untyped_storage().data_ptr() for each in tensors}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(kept.values())


def _calls(config: Config, action: Action) -> int:
    """Find how many calls a sample takes."""
    _seconds(config, action, 1)
    return max(1, round(LEAST_S / max(1e-9, _seconds(config, action, 1))))


def _seconds(config: Config, action: Action, calls: int) -> float:
    machine.prepare(config.threads)
    wait = SYNCHRONIZE.get(config.device, lambda: None)
    now = time.process_time if clock(config) == "CPU time" else time.perf_counter
    with memory_errors(config):
        wait()
        start = now()
        for _ in range(calls):
            action()
        wait()
        return now() - start
