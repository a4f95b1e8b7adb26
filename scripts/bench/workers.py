"""Several workers in one run: what they send, how fast they train, how long they take to start.

Messages are counted, in two workers on the CPU, and so are their bytes: what one worker gives into
each. A step of two workers, each with half of the batch, is compared in wall time with the same
step of one single-threaded process; all workers may use all cores that the benchmark was given.
On a GPU, one worker that has joined a group is compared with one that has not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from run import CORES, Case
from torch import Tensor

from normbench.engine.sums import FOLD
from normbench.rows import Row
from normbench.runs.job import Job
from normbench.runtime import collectives, machine, workers
from normbench.runtime.processes import Message
from normbench.settings import compose
from normbench.settings.schema import Config

SENDERS = ("all_reduce", "all_gather", "broadcast", "barrier")
COUNTED = 20  # steps whose messages are counted, fewer than FOLD
SLICE = 50  # steps between two training rows
TOLERANCE = 1e-3  # of the loss after the first steps, between two workers and one
GPU_MOST = 1.02


def configured(*words: str) -> Config:
    # one validation at the end, which no timing reaches
    common = ["steps=100000", "eval_every=100000", f"log_every={SLICE}"]
    (cell,) = compose.Grid(compose.loader()).cells([*words, *common], False)
    assert cell.config
    return cell.config


@contextmanager
def all_cores() -> Iterator[None]:
    """Let processes that are started in the block use all cores, not the one of this process."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


class Sent(NamedTuple):
    """What one of two workers sends: in a step, and for the numbers of many steps together."""

    messages: float
    kib: float
    told_messages: float
    told_kib: float


def sent(model: str, norm: str) -> Sent:
    """Count the messages of a worker and their bytes."""
    config = configured(f"model={model}", f"norm={norm}", "batch=32", "gpus=2", "device=cpu")
    (news,) = workers.together(2, "cpu", lambda say: say({"sent": count(config)}))
    return Sent(*news["sent"])


def count(config: Config) -> Sent:
    """Train some steps as a worker and count what it sends."""
    job = Job(config)
    job.model.train()
    sizes: list[int] = []
    for name in SENDERS:
        setattr(dist, name, listened(getattr(dist, name), sizes))
    order = job.train.order(config.seed, 0, config.batch)[:COUNTED]
    for indices in collectives.mine(order, config.accumulate):
        job.train_step(job.train.gather(indices), config.lr)
    messages, kib = len(sizes) / COUNTED, sum(sizes) / COUNTED / 1024
    sizes.clear()
    job.train_step.sums.read()
    return Sent(messages, kib, len(sizes), sum(sizes) / 1024)


def listened(send: Callable[..., Any], sizes: list[int]) -> Callable[..., Any]:
    """Wrap a function of torch.distributed so that the bytes of its tensor are noted."""

    def listening(*args: Any, **kwargs: Any) -> Any:
        sizes.append(next((each.nbytes for each in reversed(args) if isinstance(each, Tensor)), 0))
        return send(*args, **kwargs)

    return listening


class Slices:
    """`fit` in `workers` processes that joined a group, SLICE steps at a time.

    plain: have the only worker leave its group, and train as a run without workers does.
    """

    def __init__(self, config: Config, plain: bool = False) -> None:
        self.config, self.plain = config, plain
        self.news: Iterator[Message] | None = None
        self.loss = 0.0

    def __call__(self) -> float:
        """Train up to the next training row and return the wall seconds of worker 0."""
        count, device = self.config.gpus, self.config.device
        if self.news is None:
            self.wait, self.go = os.pipe()
            self.news = workers.together(count, device, self.work)
        with all_cores():
            os.write(self.go, b"." * count)
            news = next(self.news)
        self.loss = news["loss"]
        return float(news["seconds"])

    def work(self, say: workers.Send) -> None:
        """Train SLICE steps for each byte that comes: one for each worker, who await each other."""
        machine.prepare(1)
        if self.plain:
            collectives.leave()
        rows = trained(self.config)
        next(rows)  # the validation at step 0
        while True:
            os.read(self.wait, 1)
            collectives.meet()
            start = time.perf_counter()
            row = next(rows)  # its numbers come from the device, which is done then
            seconds = time.perf_counter() - start
            say({"seconds": seconds, "loss": row.values["train/loss"]})


def trained(config: Config) -> Iterator[Row]:
    """Train and yield the rows, without the moments at which the run could be kept."""
    return (row for row in Job(config).rows() if isinstance(row, Row))


class Alone:
    """The same in this process, without workers."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.rows: Iterator[Any] | None = None
        self.loss = 0.0

    def __call__(self) -> float:
        """Train up to the next training row and return the wall seconds."""
        if self.rows is None:
            self.rows = trained(self.config)
            next(self.rows)
        start = time.perf_counter()
        self.loss = next(self.rows).values["train/loss"]
        return time.perf_counter() - start


def agree(ours: Slices, baseline: Slices | Alone) -> None:
    """Both sides must have the same loss over the first steps."""
    for side in (ours, baseline):
        side()
    apart = abs(ours.loss / baseline.loss - 1)
    if apart > TOLERANCE:
        raise AssertionError(f"the losses of the first steps differ by {apart:.2g}")


def start(count: int) -> float:
    """Seconds until all of so many workers have met and worker 0 has said so."""

    def work(say: workers.Send) -> None:
        collectives.meet()
        say({"here": True})

    with all_cores():
        begun = time.perf_counter()
        news = workers.together(count, "cpu", work)
        next(news)
        seconds = time.perf_counter() - begun
        news.close()
    return seconds


def cases(quick: bool) -> list[Case]:
    """List what is counted, then what is timed."""
    machine.prepare(1)
    return [*messages(), *steps(quick), *starts(), *gpu(quick)]


def messages() -> Iterator[Case]:
    for model in ("mlp", "cnn"):
        for norm in ("bn", "syncbn"):
            found = sent(model, norm)
            name = f"workers {model} {norm} gpus=2, sent per step"
            note = f"and {found.told_messages} for the numbers of up to {FOLD} steps"
            yield Case(name, lambda f=found: f.messages, repeats=1, unit="messages", note=note)
            note = f"and {found.told_kib:.2g} for the numbers of {COUNTED} steps"
            yield Case(name, lambda f=found: f.kib, repeats=1, unit="KiB", note=note)


def steps(quick: bool) -> Iterator[Case]:
    for model in ("mlp", "cnn"):
        for batch in (32, 128):
            for norm in ("bn", "syncbn"):
                words = (f"model={model}", f"norm={norm}", f"batch={batch}", "device=cpu")
                ours, baseline = Slices(configured(*words, "gpus=2")), Alone(configured(*words))
                yield Case(
                    name=f"workers {model} {norm} batch {batch}, {SLICE} steps, wall",
                    ours=ours,
                    baseline=baseline,
                    # with bn each worker has statistics of its own, and no loss in common
                    agree=(lambda a=ours, b=baseline: agree(a, b)) if norm == "syncbn" else None,
                    repeats=7 if quick else 21,
                )


def starts() -> Iterator[Case]:
    for count in (1, 2, 4):
        yield Case(f"workers start gpus={count}, wall", lambda n=count: start(n))


def gpu(quick: bool) -> Iterator[Case]:
    if not torch.cuda.device_count():
        print("workers gpus=1 on a GPU: left out, there is none")
        return
    if torch.cuda.is_initialized():
        print("workers gpus=1 on a GPU: left out, no worker can be forked after other benchmarks")
        return
    for model in ("mlp", "cnn"):
        config = configured(f"model={model}", "norm=bn", "batch=32", "device=cuda")
        ours, baseline = Slices(config), Slices(config, plain=True)
        yield Case(
            name=f"workers {model} batch 32 gpus=1 cuda, {SLICE} steps, wall",
            ours=ours,
            baseline=baseline,
            agree=lambda a=ours, b=baseline: agree(a, b),
            most=GPU_MOST,
            repeats=15 if quick else 61,
        )
