"""Forwards for statistics: training mode without dropout, buffers put back, batch norms updated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from normbench.errors import NormError
from normbench.norms._base import Norm, OverTime, Running
from normbench.norms._units import Dropout
from normbench.runtime import collectives


def calibrate(model: nn.Module, batch: Tensor) -> None:
    """Let each module that has `calibrate` set itself from its input, predecessors already set.

    One forward of `batch` in training mode, without dropout, so that no random number is drawn. A
    module that is called several times, once per time step, sets itself at the first. Buffers and
    modes of all layers are put back afterwards. Does nothing when no module asks.
    """
    hooks: dict[nn.Module, RemovableHandle] = {}

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        hooks.pop(module).remove()
        module.calibrate(inputs[0])  # type: ignore[operator]

    for module in model.modules():
        if hasattr(module, "calibrate"):
            hooks[module] = module.register_forward_pre_hook(before)
    if not hooks:
        return
    with torch.no_grad(), preserve_buffers(model), train_mode(model):
        model(batch)
    for hook in hooks.values():
        hook.remove()


@torch.no_grad()
def update_bn(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set all running statistics to those of `batches` together, with fixed weights.

    Each batch goes forward once in training mode, without dropout, every layer `plain`. Means are
    averaged over the batches of all workers, weighted by their values; a variance is the average
    of those within batches plus the variance of their means. A layer joins the batches that reach
    it, for a late time step the long sequences. All other buffers stay as they are.
    """
    layers = [module for module in model.modules() if isinstance(module, Running)]
    sums: dict[Running, dict[str, Tensor]] = {}
    with ExitStack() as stack, batch_statistics(model):
        for layer in layers:  # a run that is stopped here is kept as it was before: without hooks
            stack.callback(layer.register_forward_pre_hook(_count).remove)
        for batch in batches:
            model(batch)
            idle = _idle(model)
            for layer in (reached for reached in layers if reached not in idle):
                values = {"count": torch.ones((), dtype=torch.float64), **layer.additive()}
                total = sums.setdefault(layer, dict.fromkeys(values, torch.zeros(())))
                sums[layer] = {
                    name: total[name] + value * layer.count for name, value in values.items()
                }
    for layer, total in sums.items():
        count = collectives.total_number(float(total.pop("count")))
        layer.adopt(
            {name: collectives.total(value) / count for name, value in total.items()}, count
        )


def _count(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(layer, Running)
    layer.count = inputs[0].numel() // inputs[0].shape[1]


def _idle(model: nn.Module) -> set[nn.Module]:
    """Find the layers of time steps that the last forward, of a short sequence, did not reach."""
    found = [over_time for over_time in model.modules() if isinstance(over_time, OverTime)]
    late = [step for over_time in found for step in over_time.layers[over_time.last + 1 :]]
    return {module for step in late for module in step.modules()}


def check_update_bn(norm: Norm, name: str, model: nn.Module) -> None:
    """Raise NormError if `update_bn` misses running statistics of the norm in `model`."""
    layers = list(model.modules())
    missed = {
        type(layer).__name__
        for layer in layers
        if not isinstance(layer, Running)
        and any(map(_is_running, layer.named_buffers(recurse=False)))
    }
    if missed or (norm.has_modes() and not any(isinstance(layer, Running) for layer in layers)):
        where = " of " + ", ".join(sorted(missed)) if missed else ""
        why = f"the running statistics{where} cannot be taken again from the training set"
        raise NormError("", name, why, "eval_stats=running")


def average_running(model: nn.Module) -> None:
    """Replace the running statistics on all workers by their means over them, in one message."""
    if collectives.world_size() == 1:
        return
    statistics = [named[1] for named in model.named_buffers() if _is_running(named)]
    if statistics:
        means = torch.cat([buffer.flatten() for buffer in statistics])
        collectives.average(means)
        start = 0
        for buffer in statistics:
            buffer.copy_(means[start : start + buffer.numel()].view_as(buffer))
            start += buffer.numel()


def _is_running(named: tuple[str, Tensor]) -> bool:
    return named[0].rpartition(".")[2].startswith("running_")


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Put the model into training mode, without dropout, all layers with statistics `plain`.

    Modes and buffers are put back when the block ends.
    """
    layers = [module for module in model.modules() if isinstance(module, Running)]
    with preserve_buffers(model), train_mode(model):
        for layer in layers:
            layer.plain = True
        try:
            yield
        finally:
            for layer in layers:
                layer.plain = False


@contextmanager
def train_mode(model: nn.Module) -> Iterator[None]:
    """Put the model, but for its dropout, into training mode until the block ends."""
    with preserve_modes(model):
        for module in model.modules():
            module.training = not isinstance(module, Dropout | nn.modules.dropout._DropoutNd)
        yield


@contextmanager
def preserve_buffers(model: nn.Module) -> Iterator[None]:
    """Put all buffers back as they were when the block ends."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


@contextmanager
def preserve_modes(model: nn.Module) -> Iterator[None]:
    """Put every module back into training or evaluation mode when the block ends."""
    kept = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in kept:
            module.training = training
