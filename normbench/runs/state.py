"""What a state is made of: parts by name, attributes of modules, and what each worker has alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

from normbench.engine.capture import captured
from normbench.errors import FileRefused, pasted
from normbench.runs import weights
from normbench.runtime import collectives, storage

if TYPE_CHECKING:
    from normbench.optimizers._base import FlatOptimizer
    from normbench.settings.schema import Config

State = tuple[Mapping[str, Tensor], dict[str, Any]]  # with plain facts about it
MODES = ("training", "plain", "generator")  # attributes of modules that are set before each use


def attributes(model: nn.Module) -> list[dict[str, Any]]:
    """Give what the modules hold besides tensors, but for their modes."""
    return [
        {name: value for name, value in each.items() if name not in MODES}
        for each in captured.attributes(model)
    ]


def in_place(model: nn.Module, optimizer: FlatOptimizer) -> dict[str, Tensor]:
    """Give the tensors of model and optimizer that a step changes in place, by name."""
    return {
        **{f"model.{name}": each for name, each in model.named_parameters()},
        **{f"model.{name}": each for name, each in model.named_buffers()},
        **{f"optimizer.{name}": each for name, each in optimizer.state_dict().items()},
    }


def fitting(path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """See that a state has all tensors of a run.

    Raises: FileRefused with the first whose shape or dtype is not that of the run's `own`.
    """
    for name, needed in own.items():
        there, here = described(tensors.get(name)), described(needed)
        if there != here:
            raise storage.damaged(path, f"{name} is {there} there, and {here} in this run")


def described(tensor: Tensor | None) -> str:
    """Say of what shape and type a tensor is, if it is there."""
    return "missing" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Give the tensors of one part of a state, by their names in it."""
    start = f"{part}."
    return {
        name.removeprefix(start): each for name, each in tensors.items() if name.startswith(start)
    }


def random(device: str) -> dict[str, Tensor]:
    """Give the states of torch's own generators, from which parts of others may draw."""
    on_gpu = {"cuda": torch.cuda.get_rng_state()} if device == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **on_gpu}


def of_others(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return on worker 0 the tensors that the others have, `worker1.NAME`; nothing on them.

    All workers call, each with tensors `own` on the CPU of the same names, shapes and dtypes.
    """
    if collectives.world_size() == 1 or not own:
        return {}
    flat = {name: tensor.reshape(-1).view(torch.uint8) for name, tensor in own.items()}
    sizes = [len(each) for each in flat.values()]
    there: dict[str, Tensor] = {}
    for rank, data in enumerate(collectives.to_first(torch.cat([*flat.values()]))):
        for (name, tensor), piece in zip(own.items(), torch.split(data, sizes), strict=True):
            if rank:  # copies, for no other type may begin at any byte
                there[f"worker{rank}.{name}"] = piece.clone().view(tensor.dtype).view_as(tensor)
    return there


def mine(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with what this worker has of its own in place of what worker 0 has."""
    return {**tensors, **part_of(tensors, f"worker{collectives.rank()}")}


def packed(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """Pack tensors, contiguous and on the CPU, and plain facts for another process."""
    return safetensors.save(dict(tensors), {"about": json.dumps(about)})


def unpacked(data: bytes) -> State:
    """Return what `packed` was made from."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return safetensors.load(data), json.loads(header["__metadata__"]["about"])


def from_first(state: State | None) -> State | None:
    """Return the state, if any, that worker 0 has."""
    if collectives.world_size() == 1:
        return state
    data = collectives.bytes_from_first(packed(*state) if state else b"")
    return unpacked(data) if data else None


def load(model: nn.Module, kept: Mapping[str, Tensor], config: Config) -> None:
    """Put weights into a model.

    Raises: FileRefused with the first name, shape or type that is another one.
    """
    wanted = model.state_dict()
    path, again = weights.path(config.directory), f"rm -r {pasted(config.directory)}"
    fix = f"{again}    (then normbench train again)"
    for name in [*wanted, *kept]:
        mine, theirs = (described(tensors.get(name)) for tensors in (wanted, kept))
        if mine != theirs:
            why = f"{name} is {theirs} there, and {mine} in the model of the configuration"
            raise FileRefused(str(path), why, fix)
    model.load_state_dict(dict(kept))
