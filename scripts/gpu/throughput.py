"""Steps of normbench against an expert's loop: rate, time on the device, and the same losses."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, product
from statistics import median
from typing import TYPE_CHECKING, Any

import expert
import torch
from torch import Tensor

if TYPE_CHECKING:
    from __main__ import Task

FIRST = 5  # steps whose losses are compared
SHAPES = {"mlp": "[1,28,28]", "cnn": "[3,32,32]", "resnet20": "[3,32,32]"}
LR = 0.01
Step = Callable[[Tensor], Tensor]


def run(task: Task) -> dict[str, Any]:
    """Time every workload, the small ones first, until the time is over."""
    end, small = time.monotonic() + task.seconds, task.device == "cpu"
    batches = [2] if small else [2, 128] if task.quick else [2, 32, 128, 512]
    models = ["mlp", "cnn"] if small else list(expert.MODELS)
    workloads = list(product(models, batches, ["bn", "gn"], ["fp32", "bf16"]))
    steps, slices = (3, 2) if small else (50, 2) if task.quick else (50, 4)
    rows, left = [], []
    for workload in workloads:
        if time.monotonic() > end:
            left.append("-".join(map(str, workload)))
            continue
        try:
            rows.append(timed(task.device, workload, steps, slices))
        except Exception as error:  # the others go on
            traceback.print_exc()
            left.append(f"{'-'.join(map(str, workload))} ({type(error).__name__}: {error})")
            continue
        print({key: value for key, value in rows[-1].items() if key != "kernels"}, flush=True)
    return {"steps": steps * slices, "rows": rows, "left_out": left}


def timed(
    device: str, workload: tuple[str, int, str, str], steps: int, slices: int
) -> dict[str, Any]:
    """One workload: both sides in turn, the expert also with the settings of a racer."""
    model, batch, norm, precision = workload
    ours, theirs, feed = sides(device, workload)
    order = indices(feed, batch)
    losses = [
        [float(step(next(order_of))) for _ in range(FIRST)]
        for step, order_of in ((ours, indices(feed, batch)), (theirs, indices(feed, batch)))
    ]
    runs = {"normbench": (ours, False), "expert": (theirs, False), "expert_tf32": (theirs, True)}
    for step, fast in runs.values():
        with arithmetic(fast):
            for _ in range(steps // 2):
                step(next(order))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(slices):
        for name, (step, fast) in runs.items():
            with arithmetic(fast):
                found[name].append(sliced(device, step, order, steps))
    row: dict[str, Any] = {"model": model, "batch": batch, "norm": norm, "precision": precision}
    for name, times in found.items():
        row[name] = {
            "steps_per_s": round(1 / median(wall for wall, _ in times), 1),
            "device_ms": round(1000 * median(on_device for _, on_device in times), 4),
        }
    row["ratio"] = round(row["normbench"]["steps_per_s"] / row["expert"]["steps_per_s"], 3)
    row["losses_apart"] = max(abs(a - b) / abs(b) for a, b in zip(*losses, strict=True))
    row["kernels"] = {
        name: counted(device, runs[name][0], order) for name in ("normbench", "expert")
    }
    return row


def sides(device: str, workload: tuple[str, int, str, str]) -> tuple[Step, Step, Any]:
    """A step of normbench and one of the expert, from the same values, and the images."""
    from normbench.runs.job import Job
    from normbench.runtime import machine
    from normbench.settings import compose

    model, batch, norm, precision = workload
    machine.prepare(1)
    words = [f"model={model}", f"norm={norm}", f"batch={batch}", f"precision={precision}"]
    words += ["data=synthetic", f"data.shape={SHAPES[model]}", f"device={device}", "steps=1000"]
    (cell,) = compose.Grid(compose.loader()).cells(words, False)
    job = Job(cell.config)
    job.model.train()
    feed = job.train
    x, y = feed.gather(torch.arange(len(feed), device=feed.device))
    made = expert.MODELS[model](norm, tuple(x.shape[1:]), 10)
    x = x.contiguous(memory_format=torch.channels_last)
    loop = expert.Loop(made, (x, y), {"lr": LR, "precision": precision})
    loop.start_from(list(job.model.parameters()))

    def ours(index: Tensor) -> Tensor:
        train_step = job.train_step
        train_step(feed.gather(index), LR)
        if len(train_step.sums.folded) > 4:
            train_step.sums.read()  # as the engine does at a row
        return train_step.sums.losses[-1] if train_step.sums.losses else torch.tensor(float("nan"))

    return ours, lambda index: loop.step(index, LR), feed


def indices(feed: Any, batch: int) -> Iterator[Tensor]:
    """The batches of the first epochs again and again, on the device: none is drawn meanwhile."""
    found: list[Tensor] = []
    while len(found) < 64:
        found += feed.order(0, len(found), batch)
    return cycle(found)


@contextmanager
def arithmetic(fast: bool) -> Iterator[None]:
    """Either what normbench sets, or what is fastest: TF32, and kernels chosen by trial."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    if fast:
        matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = True
        cudnn.deterministic = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before


def sliced(device: str, step: Step, order: Iterator[Tensor], steps: int) -> tuple[float, float]:
    """Seconds of a step by the clock, and on the device between two events."""
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(steps):
            step(next(order))
        wall = (time.perf_counter() - start) / steps
        return wall, wall
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start = time.perf_counter()
    first.record()
    for _ in range(steps):
        step(next(order))
    last.record()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps, first.elapsed_time(last) / 1000 / steps


def counted(device: str, step: Step, order: Iterator[Tensor]) -> dict[str, Any]:
    """What `kernels` tells, or why not: the profiler may not be there, the times are."""
    try:
        return kernels(device, step, order)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def kernels(device: str, step: Step, order: Iterator[Tensor], steps: int = 5) -> dict[str, Any]:
    """How many kernels a step starts, and how long they keep the device busy, in ms."""
    if device == "cpu":
        return {}
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as seen:
        for _ in range(steps):
            step(next(order))
        torch.cuda.synchronize()
    events = [event for event in seen.events() if event.device_type.name == "CUDA"]
    busy = sum(event.device_time for event in events)
    return {"count": len(events) // steps, "busy_ms": round(busy / 1000 / steps, 4)}
