"""How far running statistics are from those that a probe has as one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normbench.norms._base import Running
from normbench.norms._sums import widest


@torch.no_grad()
def statistics_errors(
    model: nn.Module,
    images: Tensor,
    cast: Callable[[], AbstractContextManager[Any]],
    modules: Mapping[str, Sequence[nn.Module]],
) -> dict[str, dict[str, float]]:
    """Return `stat_error` and `stat_log_var` by path, as far as they are defined.

    Args: model: its layers are plain, so that a forward writes the statistics of `images`. cast:
        makes the autocast context of the run. modules: those with running statistics, by path.
    """
    watched = [module for group in modules.values() for module in group]
    if not watched:
        return dict.fromkeys(modules, {})
    old = {module: _statistics(module) for module in watched}
    spreads: dict[nn.Module, Tensor] = {}

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        spreads[module] = widest(inputs[0]).transpose(0, 1).flatten(1).var(1)

    handles = [module.register_forward_pre_hook(before) for module in watched]
    with cast():
        model(images)
    for handle in handles:
        handle.remove()
    errors = {
        module: _errors(old[module], _statistics(module), spreads.get(module)) for module in watched
    }
    return {path: _joined([errors[module] for module in group]) for path, group in modules.items()}


def _statistics(module: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Copies of running mean and variance by channel, as far as the layer keeps them."""
    kept = {
        name: widest(buffer).flatten().clone()
        for name, buffer in module.named_buffers(recurse=False)
        if name.startswith("running_")
    }
    std = kept.get("running_std")
    return kept.get("running_mean"), kept.get("running_var", None if std is None else std.square())


class _Errors(NamedTuple):
    """By channel: the errors of the running mean in deviations, the logarithms of var ratios."""

    means: list[Tensor]
    logs: list[Tensor]


def _errors(
    old: tuple[Tensor | None, Tensor | None],
    new: tuple[Tensor | None, Tensor | None],
    spread: Tensor | None,
) -> _Errors:
    """Compare running statistics with those of now; `spread`: the input's variance by channel."""
    (old_mean, old_var), (mean, var) = old, new
    errors = _Errors([], [])
    unit = spread if var is None else var
    if old_mean is not None and mean is not None and unit is not None:
        errors.means.append(((old_mean - mean) / unit.sqrt())[unit > 0])
    if old_var is not None and var is not None:
        errors.logs.append((old_var / var).log()[(old_var > 0) & (var > 0)])
    return errors


def _joined(errors: Sequence[_Errors]) -> dict[str, float]:
    """The two quantities of a layer from the errors of its modules."""
    means = [mean for module in errors for mean in module.means]
    logs = [log for module in errors for log in module.logs]
    found = {}
    if sum(map(len, means)):
        found["stat_error"] = torch.cat(means).square().mean().sqrt().item()
    if sum(map(len, logs)):
        found["stat_log_var"] = torch.cat(logs).mean().item()
    return found


def running_layers(module: nn.Module) -> list[nn.Module]:
    """List the layers with running statistics in a module, itself included."""
    return [layer for layer in module.modules() if isinstance(layer, Running)]
