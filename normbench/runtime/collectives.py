"""The workers that train one run together: how many, which one this is, and what they add up.

The only file that knows how workers talk to each other. In a process of its own, with no group
joined, there is one worker and every sum is the tensor itself.
"""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from normbench.runtime import signs

PATIENCE_S = 600  # how long a worker waits for another before it gives up
# Workers of the run that is being checked, before there are any.
_PLANNED = ContextVar("planned", default=1)
_ALONE = ContextVar("alone", default=False)


def joined() -> bool:
    """Tell whether this process belongs to a group of workers."""
    return dist.is_available() and dist.is_initialized() and not _ALONE.get()


@contextmanager
def alone() -> Iterator[None]:
    """Let this process work by itself for a while, whatever group it belongs to."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def world_size() -> int:
    """Return the number of workers of the run."""
    return dist.get_world_size() if joined() else _PLANNED.get()


def rank() -> int:
    """Return the number of this worker, 0 <= rank < world_size."""
    return dist.get_rank() if joined() else 0


@contextmanager
def planned(workers: int) -> Iterator[None]:
    """Let `world_size` be that of a run to come, so that its layers can be checked without it."""
    token = _PLANNED.set(workers)
    try:
        yield
    finally:
        _PLANNED.reset(token)


def back_ends() -> list[str]:
    """List the ways in which workers can talk to each other here."""
    there = {
        "gloo": dist.is_available() and dist.is_gloo_available(),
        "nccl": dist.is_available() and dist.is_nccl_available() and torch.cuda.is_available(),
    }
    return [name for name, available in there.items() if available]


class PeerLost(Exception):
    """Another worker of the group is gone, or has not answered within `PATIENCE_S`."""

    reason = "rank_lost"  # of a run that fails by it


def join(rank: int, workers: int, device: str, meeting: str) -> None:
    """Join the group of workers, once per process.

    Args: device: `cpu` talks by gloo, `cuda` by nccl. meeting: where the workers find each other,
        a URL such as `file:///folder/meeting`, or `env://` for the variables that torchrun sets.
    Raises: PeerLost if they do not come together.
    """
    backend = "nccl" if device == "cuda" else "gloo"
    patience = timedelta(seconds=PATIENCE_S)
    with _talking():
        dist.init_process_group(backend, meeting, patience, world_size=workers, rank=rank)
    atexit.register(leave)


def notices(purpose: str) -> Any:
    """Connect to the `Store` that torchrun keeps, in which all workers read what each has written.

    The connection is for one thread, which may use it while others wait for a message.
    """
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    patience = timedelta(seconds=signs.LAST_WORDS_S)
    store = dist.TCPStore(*place, is_master=False, timeout=patience)  # type: ignore[attr-defined]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"normbench/{attempt}/{purpose}", store)  # type: ignore[attr-defined]


def meet() -> None:
    """Wait until all workers have come here, where there are others."""
    if world_size() > 1:
        with _talking():
            dist.barrier()


def leave() -> None:
    """Leave the group of workers, if there is one."""
    if joined():
        dist.destroy_process_group()


def average(tensor: Tensor) -> None:
    """Replace `tensor` on all workers by its mean over them, in one message."""
    if world_size() > 1:
        with _talking():
            dist.all_reduce(tensor)
        tensor.div_(world_size())


def total(tensor: Tensor) -> Tensor:
    """Return the sum of `tensor` over all workers."""
    return all_reduce_sum(tensor, world_size())


def total_number(number: float) -> float:
    """Return the sum of a number over all workers, in float64."""
    if world_size() == 1:
        return number
    return float(total(torch.tensor(number, dtype=torch.float64, device=_device())))


def all_are(truth: bool) -> bool:
    """Tell whether something is true on all workers."""
    return total_number(float(truth)) == world_size()


def mine(batches: Tensor, accumulate: int) -> Tensor:
    """Return this worker's part (steps, batch / workers, ...) of `batches` (steps, batch, ...).

    A batch is cut into `accumulate` micro-batches, and each of these over the workers.
    """
    steps, batch, *rest = batches.shape
    pieces = batches.reshape(steps, accumulate, world_size(), -1, *rest)
    return pieces[:, :, rank()].reshape(steps, batch // world_size(), *rest)


def from_first(tensors: Iterable[Tensor]) -> None:
    """Replace tensors on all workers by those of worker 0."""
    if world_size() > 1:
        for tensor in tensors:
            with _talking():
                dist.broadcast(tensor, 0)


def bytes_from_first(data: bytes) -> bytes:
    """Return the `data` of worker 0, whatever this one has."""
    if world_size() == 1:
        return data
    size = torch.tensor(len(data), device=_device())
    from_first([size])
    content = torch.zeros(int(size), dtype=torch.uint8, device=_device())
    if rank() == 0 and data:
        content.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    from_first([content] if len(content) else [])
    return content.cpu().numpy().tobytes()


def to_first(tensor: Tensor) -> list[Tensor]:
    """Return on worker 0 the tensors, of equal shapes, of all workers; nothing elsewhere."""
    if world_size() == 1:
        return [tensor]
    own = tensor.to(_device())
    every = None if rank() else [torch.empty_like(own) for _ in range(world_size())]
    with _talking():
        dist.gather(own, every)
    return [each.cpu() for each in every or []]


def unlike_first(digest: str, device: str) -> list[int]:
    """Return the workers whose hexadecimal `digest` is not that of worker 0."""
    own = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8, device=device)
    every = [torch.empty_like(own) for _ in range(world_size())]
    with _talking():
        dist.all_gather(every, own)
    return [rank for rank, other in enumerate(every) if not other.equal(every[0])]


def share(start: int, stop: int) -> tuple[int, int]:
    """Cut start .. stop into as many equal pieces as there are workers; return this one's."""
    size, workers, place = stop - start, world_size(), rank()
    return start + size * place // workers, start + size * (place + 1) // workers


def all_reduce_sum(tensor: Tensor, workers: int) -> Tensor:
    """Return the sum of `tensor` over this worker and its neighbours; no gradient flows.

    Ranks 0 .. workers-1 are neighbours, workers .. 2*workers-1 are, and so on. All of them must
    call, with equal shapes. Works for gloo and nccl.
    Args: workers: how many add up, a divisor of the world size.
    """
    if not joined() or workers == 1:
        return tensor
    total = tensor.detach().clone().contiguous()
    with _talking():
        dist.all_reduce(total, group=_neighbours(workers, dist.group.WORLD))
    return total


def _device() -> str:
    """Where tensors must be to be sent."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


@contextmanager
def _talking() -> Iterator[None]:
    signs.OWN.turns += 1
    try:
        yield
        signs.OWN.turns += 1
    except RuntimeError as error:  # all that torch raises when a message does not get through
        said = str(error).partition("\n")[0]  # where in torch's source stands in brackets before it
        raise PeerLost(re.sub(r"^\[[^]]*\]\s*", "", said)) from error


@cache
def _neighbours(workers: int, world: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """The group of `workers` that this one is in. Made once, by all workers of `world` together."""
    if workers == dist.get_world_size():
        return world
    group, _ = dist.new_subgroups(group_size=workers)
    return group
