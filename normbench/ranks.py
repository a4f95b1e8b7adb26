"""The workers that train one run together: how many, which one this is, and what they add up.

The only file that knows how workers talk to each other. In a process of its own, with no group
joined, there is one worker and every sum is the tensor itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch.distributed as dist
from torch import Tensor

_planned = 1  # workers of the run that is being checked, before there are any


def joined() -> bool:
    """Tell whether this process belongs to a group of workers."""
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Return the number of workers of the run."""
    return dist.get_world_size() if joined() else _planned


def rank() -> int:
    """Return the number of this worker, 0 <= rank < world_size."""
    return dist.get_rank() if joined() else 0


@contextmanager
def planned(workers: int) -> Iterator[None]:
    """Let `world_size` be that of a run to come, so that its layers can be checked without it."""
    global _planned
    before, _planned = _planned, workers
    try:
        yield
    finally:
        _planned = before


def all_reduce_sum(tensor: Tensor, workers: int) -> Tensor:
    """Return the sum of `tensor` over this worker and its neighbours; no gradient flows.

    Ranks 0 .. workers-1 are neighbours, workers .. 2*workers-1 are, and so on. All of them must
    call, with equal shapes. Works for gloo and nccl.
    Args: workers: how many add up, a divisor of the world size.
    """
    if not joined() or workers == 1:
        return tensor
    total = tensor.detach().clone().contiguous()
    dist.all_reduce(total, group=_neighbours(workers, dist.group.WORLD))
    return total


@cache
def _neighbours(workers: int, world: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """The group of `workers` that this one is in. Made once, by all workers of `world` together."""
    if workers == dist.get_world_size():
        return world
    group, _ = dist.new_subgroups(group_size=workers)
    return group
