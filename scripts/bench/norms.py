"""Forward and backward of every norm against torch's kernel, or against a copy of the same bytes.

The floor of a norm without a kernel of torch's is what memory allows: a forward pass reads and
writes one tensor, a backward pass reads two and writes one. Norms of weights are compared with the
plain layer that they replace, cbn with that layer and torch's batch norm.

On a GPU a pass is timed twice: as Python starts its kernels one by one, and as a captured graph,
which shows the kernels alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from run import Case
from torch import Tensor, nn

from normbench.errors import NormError
from normbench.norms import create
from normbench.parts import registry
from normbench.runtime import machine

SHAPES = ((32, 64, 32, 32), (128, 512))
BATCH = ("bn", "syncbn", "ghostbn", "brn", "evalnorm", "mean", "bin", "cmbn", "switch", "mabn")
GROUPS = {"ln": 1, "gn": 8, "in": 64}
WEIGHTS = ("wn", "ws", "scaled_ws", "cosine", "normprop", "cbn")
SETTINGS = {  # where a norm wants a number of the run
    "brn": {"start": 5000, "rmax_end": 40000, "dmax_end": 25000},
    "dbn": {"groups": 8},
    "iternorm": {"groups": 8},
}
GPU_CALLS = 50
LEAST_S = 0.05  # a figure covers as many passes as take about this long


def module(name: str, shape: tuple[int, ...]) -> nn.Module | None:
    """Build what a norm puts into a net, None if it has nothing for this shape."""
    norm, channels, dims = create(name, **SETTINGS.get(name, {})), shape[1], len(shape) - 2
    if name in WEIGHTS:
        return norm.linear(plain(shape))
    layer = norm.layer(channels, dims)
    return norm.activation(None, channels, dims) if layer is None else layer


def plain(shape: tuple[int, ...]) -> nn.Module:
    """Build the layer that a norm of weights replaces."""
    channels = shape[1]
    if len(shape) == 2:
        return nn.Linear(channels, channels, bias=False)
    return nn.Conv2d(channels, channels, 3, padding=1, bias=False)


def native(name: str, shape: tuple[int, ...]) -> nn.Module | None:
    """Build torch's layer for the same work, None if it has none."""
    channels, flat = shape[1], len(shape) == 2
    batchnorm = (nn.BatchNorm1d if flat else nn.BatchNorm2d)(channels)
    if name in BATCH:
        return batchnorm
    if name in GROUPS:
        return nn.GroupNorm(GROUPS[name], channels)
    if name in WEIGHTS:
        return nn.Sequential(plain(shape), batchnorm) if name == "cbn" else plain(shape)
    if name == "lrn" and not flat:
        return nn.LocalResponseNorm(5)
    if name == "rms" and flat:
        return nn.RMSNorm(channels)
    return None


def both_ways(layer: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return a function that does one forward and one backward pass."""
    x = x.clone().requires_grad_()
    with torch.no_grad():
        grad = torch.randn_like(layer(x))
    wanted = [x, *(each for each in layer.parameters() if each.requires_grad)]

    def once() -> None:
        torch.autograd.grad(layer(x), wanted, grad, allow_unused=True)

    return once


def copies(x: Tensor) -> Callable[[], None]:
    """Return a function that moves the bytes of a forward and a backward pass."""
    grad, out = torch.randn_like(x), torch.empty_like(x)

    def once() -> None:
        out.copy_(x)
        torch.add(x, grad, out=out)

    return once


def timed(once: Callable[[], None]) -> Callable[[], float]:
    """Return a function that gives the CPU milliseconds of one call, as a mean of many."""
    start = time.process_time()
    once()
    once()
    count = max(1, round(2 * LEAST_S / max(1e-6, time.process_time() - start)))

    def sample() -> float:
        start = time.process_time()
        for _ in range(count):
            once()
        return 1000 * (time.process_time() - start) / count

    return sample


def timed_on_gpu(once: Callable[[], None]) -> Callable[[], float]:
    """Return a function that gives the milliseconds of one call between two events of the GPU."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def sample() -> float:
        begin.record()
        for _ in range(GPU_CALLS):
            once()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / GPU_CALLS

    return sample


def captured(once: Callable[[], None]) -> Callable[[], None]:
    """Return a function that replays the kernels of `once` as one graph."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        once()
    return graph.replay


def cases(quick: bool) -> list[Case]:
    """List the cases of the CPU, and of the GPU where there is one."""
    machine.prepare(1)
    torch.manual_seed(0)
    found = [on_cpu(*each) for each in pairs("cpu")]
    if torch.cuda.is_available():
        for each in pairs("cuda"):
            found += on_gpu(*each)
    return found


def pairs(device: str) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """Yield for each norm and shape it takes: what is compared, the baseline, ours."""
    for shape in SHAPES:
        for name in registry.names("norm"):
            if name in ("none", "agc"):
                continue  # no layer of their own
            try:
                layer = module(name, shape)
            except NormError:
                continue
            assert layer is not None
            last = registry.facts("norm", name).constants["memory_format"] == "channels_last"
            maps = last and len(shape) == 4
            memory = torch.channels_last if maps else torch.contiguous_format
            x = torch.randn(shape, device=device).contiguous(memory_format=memory)
            kernel = native(name, shape)
            base = copies(x)
            if kernel is not None:
                base = both_ways(kernel.to(device, memory_format=memory), x)
            said = f"{name} {shape} against {'a copy' if kernel is None else 'torch'}"
            yield said, base, both_ways(layer.to(device, memory_format=memory), x)


def on_cpu(said: str, base: Callable[[], None], ours: Callable[[], None]) -> Case:
    """Compare two functions by their CPU time."""
    return Case(said, timed(ours), timed(base), most=2.0, unit="ms")


def on_gpu(said: str, base: Callable[[], None], ours: Callable[[], None]) -> Iterator[Case]:
    """Compare two functions by their time on the GPU, started one by one and as a graph."""
    eager = timed_on_gpu(ours), timed_on_gpu(base)
    yield Case(f"{said}, GPU", *eager, most=2.0, unit="ms")
    try:
        graphs = timed_on_gpu(captured(ours)), timed_on_gpu(captured(base))
    except RuntimeError as error:
        yield Case(f"{said}, GPU", *eager, unit="ms", note=f"no graph: {str(error)[:60]}")
        return
    yield Case(f"{said}, GPU graph", *graphs, most=2.0, unit="ms")
