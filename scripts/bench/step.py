"""A training step: normbench's, with its rows and records, against three other loops.

(a) a tutorial's loop; (b) an expert's loop, in the better of both memory formats; (c) the step by
hand, without autograd, in the better of both as well. All have the allocator as normbench sets it,
start from the same weights and see the same batches; the losses of their first five steps must
agree. A figure is of 50 steps, in CPU time of one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from loops import tutorial
from loops.by_hand import ByHand
from loops.expert import Expert
from loops.ours import Ours
from loops.start import Start, configured
from run import Case
from torch.utils.data import DataLoader

from normbench.data import mnist
from normbench.data._base import split, validation_size
from normbench.runtime import machine

SLICE = 50  # steps of a sample, and between two training rows
TRIED = 10  # steps by which the better memory format is found
CHECKED, TOLERANCE = 5, 1e-4
FORMATS = (torch.contiguous_format, torch.channels_last)
# model, norm, batch: floors against (a), (b), and the most against (c), a fifth off what was seen
WORKLOADS: tuple[tuple[str, str, int, float, float, float], ...] = (
    ("mlp", "bn", 2, 3.3, 1.9, 1.5),
    ("mlp", "bn", 32, 7.3, 1.5, 1.4),
    ("mlp", "bn", 128, 9.5, 1.05, 1.25),
    ("mlp", "gn", 2, 2.9, 1.9, 1.4),
    ("cnn", "bn", 2, 1.9, 1.1, 1.2),
    ("cnn", "bn", 32, 2.1, 1.0, 1.2),
    ("cnn", "bn", 128, 1.9, 0.9, 1.2),
    ("cnn", "gn", 2, 1.35, 1.0, 1.2),
)


@cache
def images() -> Any:
    with tempfile.TemporaryDirectory() as root:
        tutorial.unpack(Path(root))
        return tutorial.data(Path(root), True, mnist.MNIST.mean, mnist.MNIST.std)


def as_tutorial(start: Start) -> tutorial.Tutorial:
    """Give the tutorial's loop on the batches of a start."""
    data = images()
    _, train = split(data.targets.numpy(), validation_size(len(data)))
    sampler = train[torch.cat(start.order)].tolist()
    loader = DataLoader(data, start.config.batch, sampler=sampler)
    return tutorial.Tutorial(start.model, loader, start.config.lr)


def seconds(side: Any, steps: int) -> float:
    start = time.process_time()
    side.train(steps)
    return time.process_time() - start


def better(kind: Callable[..., Any], words: list[str]) -> torch.memory_format:
    """Find the memory format in which a loop is faster, by a few steps of each."""
    took = {}
    for form in FORMATS:
        side = kind(Start.of(configured(*words, f"steps={3 * TRIED}")), form)
        side.train(TRIED)
        took[form] = min(seconds(side, TRIED) for _ in range(2))
    return min(took, key=took.__getitem__)


def losses(side: Any) -> list[float]:
    """Give the losses of the first steps."""
    found = []
    for _ in range(CHECKED):
        before = float(getattr(side, "total", 0.0))
        side.train(1)
        total = getattr(side, "total", None)
        found.append(side.losses[-1] if total is None else float(total) - before)
    return found


def agree(make: Callable[[Start], Any], words: list[str]) -> None:
    """Check that a loop computes what normbench does."""
    config = configured(*words, f"steps={CHECKED}", "log_every=1")
    ours, theirs = losses(Ours(config)), losses(make(Start.of(config)))
    apart = max(abs(a - b) for a, b in zip(theirs, ours, strict=True))
    if apart > TOLERANCE:
        raise AssertionError(f"the losses of the first steps differ by {apart:.2g}")


def compared(words: list[str]) -> dict[str, Callable[[Start], Any]]:
    """Give what makes each of the other loops."""
    expert, by_hand = (better(kind, words) for kind in (Expert, ByHand))
    return {
        "tutorial": as_tutorial,
        "expert": lambda start: Expert(start, expert),
        "by hand": lambda start: ByHand(start, by_hand),
    }


def cases(quick: bool) -> Iterator[Case]:
    """Yield three cases per workload; the sides take turns every SLICE steps."""
    machine.prepare(1)
    for model, norm, batch, *floors in WORKLOADS:
        words = [f"model={model}", f"norm={norm}", f"batch={batch}"]
        repeats = min(5 if quick else 15, 55_000 // batch // SLICE - 2)
        config = configured(*words, f"steps={SLICE * (repeats + 2)}", f"log_every={SLICE}")
        for (name, make), floor in zip(compared(words).items(), floors, strict=True):
            tax = name == "by hand"
            side, ours = make(Start.of(config)), Ours(config)
            yield Case(
                name=f"step {model} {norm} batch {batch} / {name}",
                baseline=lambda side=side: 1e3 * seconds(side, SLICE) / SLICE,
                ours=lambda side=ours: 1e3 * seconds(side, SLICE) / SLICE,
                agree=lambda make=make, words=words: agree(make, words),
                most=floor if tax else None,
                least=None if tax else floor,
                repeats=repeats,
                unit="ms",
            )
