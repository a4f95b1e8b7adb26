"""What the layers of a model are and hold, found by running them on an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.norms._base import OverTime

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d)
SILENT = (nn.Flatten, nn.Identity)  # compute nothing, so they have no row


@dataclass(frozen=True)
class LayerRow:
    """One layer in the order of execution: `name` is its kind and number, -1 stands for N."""

    name: str
    kind: str
    path: str
    output_shape: tuple[int, ...]
    parameters: int
    buffers: int  # elements
    groups: int = 1  # of its channels


@dataclass(frozen=True)
class Summary:
    """The rows of a model and what they add up to.

    `norm`: parameters beyond the weights and biases of the linear layers and beyond those that the
    same model has without its norm; `without`: all parameters of that model.
    """

    rows: list[LayerRow]
    trainable: int
    norm: int
    buffers: int
    without: int


def linear_parameters(model: nn.Module) -> dict[str, int]:
    """Count the parameters of each linear layer, by path, before a norm replaces any of them."""
    return {
        path: _count(layer) for path, layer in model.named_modules() if isinstance(layer, LINEAR)
    }


def summarize(
    model: nn.Module, without: nn.Module, linear: Mapping[str, int], shape: Sequence[int]
) -> Summary:
    """Count what `model` holds; nothing is trained, and the model stays as it is.

    Args: model: with its norm, on any device. without: the same with `norm=none`.
        linear: `linear_parameters` of the model before `norms._base.apply`. shape: (C, H, W).
    """
    plain = {name for name, _ in without.named_parameters()}
    norm = sum(max(0, _count(model.get_submodule(path)) - linear[path]) for path in linear)
    for name, parameter in model.named_parameters():
        inside = any(name.startswith(f"{path}.") for path in linear)
        norm += 0 if inside or name in plain else parameter.numel()
    return Summary(
        rows=layers(model, shape),
        trainable=_count(model),
        norm=norm,
        buffers=sum(buffer.numel() for buffer in model.buffers()),
        without=_count(without),
    )


def layers(model: nn.Module, shape: Sequence[int]) -> list[LayerRow]:
    """List the layers of `model` in the order in which they first run on an image of `shape`.

    A layer of torch, or derived from one, has torch's name for it. What a layer shares with an
    earlier one is counted there. The layers of a norm at several time steps are one row.
    """
    rows: list[LayerRow] = []
    seen: set[int] = set()  # layers that ran, and tensors that were counted

    def new(tensors: Iterator[Tensor]) -> int:
        fresh = {id(tensor): tensor.numel() for tensor in tensors if id(tensor) not in seen}
        seen.update(fresh)
        return sum(fresh.values())

    def after(path: str, layer: nn.Module, output: Tensor) -> None:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        kind, sizes = _kind(layer), tuple(output.shape[1:])
        name, counts = f"{kind}-{len(rows) + 1}", (new(layer.parameters()), new(layer.buffers()))
        groups = int(getattr(layer, "num_groups", getattr(layer, "groups", 1)))
        rows.append(LayerRow(name, kind, path, (-1, *sizes), *counts, groups))

    hooks = [
        layer.register_forward_hook(lambda layer, _, output, path=path: after(path, layer, output))
        for path, layer in _leaves("", model)
    ]
    try:
        _forward(model, shape)
    finally:
        for hook in hooks:
            hook.remove()
    return rows


def _leaves(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that get a row: those without children, or with tensors of their own."""
    children = list(module.named_children())
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if isinstance(module, OverTime) or own or not children:
        if not isinstance(module, SILENT):
            yield path, module
        return
    for name, child in children:
        yield from _leaves(f"{path}.{name}" if path else name, child)


def _kind(layer: nn.Module) -> str:
    """Name the torch layer that this one is, derives from, or is called after."""
    if isinstance(layer, OverTime):
        return _kind(layer.layers[0])
    for kind in type(layer).__mro__[: type(layer).__mro__.index(nn.Module)]:
        if kind.__module__.startswith("torch.nn.") and not kind.__name__.startswith("_"):
            return kind.__name__
    own = type(layer).__name__
    axes = getattr(layer, "dims", None)  # torch has a class for each number of spatial axes
    torchs = f"{own}{max(1, axes)}d" if isinstance(axes, int) else own
    return torchs if hasattr(nn, torchs) else own


def _forward(model: nn.Module, shape: Sequence[int]) -> None:
    """Run one forward of a blank image in evaluation, so that no buffer changes."""
    training, like = model.training, next(model.parameters())
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *shape, device=like.device, dtype=like.dtype))
    finally:
        model.train(training)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
