"""What each layer of a model does on a fixed probe: activations, gradients, running statistics.

The numbers have the tags `layer/<n>-<path>/<quantity>`, n counting from 1 in the order in which
the layers first run. A layer is a unit (linear layer, norm, activation), or stands alone in the
model: the classifier, an activation after a sum, the parts of a recurrent cell. Of one layer all
values count together: over images, channels, positions, time steps and calls.

    pre_mean, pre_std   what goes into the activation; std biased
    act_mean, act_std   what comes out of it
    saturated           share of its values where |derivative| is below 10 % of the largest one
    linear_zone         share of its values where |derivative| is above 90 % of the largest one
    zeros               share of its values that are 0
    weight_norm         Euclidean norm of the linear layer's weight, as it is stored
    grad_norm           norm of the gradient of the loss by that weight
    output_grad_norm    norm of the gradient of the loss by what the layer gives
    stat_error          root mean square over channels of (running mean - mean) / deviation
    stat_log_var        mean over channels of ln(running variance / variance)
    act_histogram       of up to 4096 of its values in each call, evenly spaced
    gamma_histogram     of the norm's weight; likewise beta_histogram of its bias

What a layer does not have is left out, as are channels whose deviation or variance is 0 in `stat_`.
A histogram is the words `low high n n ...`: how many values are in each of 30 equal parts of their
range. An activation that is a norm as well has no derivative of its own, so none is counted. A
leaky relu keeps its small slope in order not to saturate, so it never does. A gelu is steepest at
sqrt(2), so that its slope of 1 at large inputs is 89 % of the largest one.

All but `stat_` are taken in training mode without dropout, in batches as in training, so they
are what training sees; the loss is the mean over the probe. `stat_` compares the running
statistics with those that the whole probe has as one batch in training mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.engine.running_error import running_layers, statistics_errors
from normbench.norms._base import OverTime, Running
from normbench.norms._modes import batch_statistics, preserve_buffers, train_mode
from normbench.norms._sums import at_least_float32, widest
from normbench.norms._units import Unit
from normbench.rows import Value

FLAT, STEEP = 0.1, 0.9  # of the largest |derivative|
# The largest |derivative| of torch's activations, which the nets of torchvision bring without a
# part of ours; other modules declare theirs as `steepest`.
STEEPEST: dict[type[nn.Module], float] = {
    nn.Identity: 1.0,
    nn.ReLU: 1.0,
    nn.ReLU6: 1.0,
    nn.LeakyReLU: 1.0,
    nn.Tanh: 1.0,
    nn.Sigmoid: 0.25,
    nn.GELU: (1 + math.erf(1)) / 2 + math.exp(-1) / math.sqrt(math.pi),  # at sqrt(2)
    nn.SiLU: 1.0998393201288634,  # at 2.3994
    nn.Hardswish: 1.5,
}
BINS, SAMPLE = 30, 4096  # of histograms
BEFORE = ("pre_mean", "pre_std", "saturated", "linear_zone")
AFTER = ("act_mean", "act_std", "zeros")
Calls = list[tuple[int, Tensor]]  # for each call: how many values, then mean, variance and shares


def look(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    cast: Callable[[], AbstractContextManager[Any]],
) -> dict[str, Value]:
    """Return what each layer of `model` does on the probe, by tag.

    Parameters, gradients, buffers and modes stay as they are, and no random number is drawn.
    Args: batches: images (N, C, H, W) and labels (N,), cut as in training; cast: makes the autocast
        context of the run.
    """
    seen = watched(model, batches, cast)
    with batch_statistics(model):
        modules = {layer.path: running_layers(layer.whole) for layer in seen}
        errors = statistics_errors(model, torch.cat([x for x, _ in batches]), cast, modules)
    found = [{**layer.values(), **layer.histograms(), **errors[layer.path]} for layer in seen]
    digits = len(str(len(seen)))
    return {
        f"layer/{layer.place:0{digits}d}-{layer.path}/{quantity}": value
        for layer, told in zip(seen, found, strict=True)
        for quantity, value in told.items()
    }


def watched(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    cast: Callable[[], AbstractContextManager[Any]],
    gradients: bool = True,
) -> list[Layer]:
    """Watch a forward pass of the probe, with `gradients` a backward pass, too.

    Returns: the layers in their order.
    """
    places = count(1)
    layers = [Layer(path, part, places) for path, part in parts(model)]
    with preserve_buffers(model), train_mode(model), _watching(layers):
        if gradients:
            _differentiate(model, batches, cast, layers)
        else:
            with torch.no_grad(), cast():
                for x, _ in batches:
                    model(x)
    return sorted((layer for layer in layers if layer.place), key=lambda layer: layer.place)


class Part(NamedTuple):
    """The modules of a layer: the whole of it, what holds its weight, its activation, its norm."""

    whole: nn.Module
    linear: nn.Module | None = None
    act: nn.Module | None = None
    norm: nn.Module | None = None


def parts(module: nn.Module, path: str = "") -> Iterator[tuple[str, Part]]:
    """Find the layers of a model, by path."""
    statistics = isinstance(module, Running | OverTime) and running_layers(module)
    if isinstance(module, Unit):
        children = dict(module.named_children())
        yield path, Part(module, *(children.get(name) for name in ("linear", "act", "norm")))
    elif hasattr(module, "acts") or type(module) in STEEPEST.keys() - {nn.Identity}:
        yield path, Part(module, act=module)
    elif statistics or (not _children(module) and _weights(module)):
        yield path, Part(module, linear=module, norm=module if statistics else None)
    else:
        for name, child in module.named_children():
            yield from parts(child, f"{path}.{name}" if path else name)


class Layer:
    """What has been seen of one layer, as small tensors that are still on the device."""

    def __init__(self, path: str, part: Part, places: Iterator[int]) -> None:
        self.path, self.whole, self.act, self.places = path, part.whole, part.act, places
        self.place = 0  # of the first call among those of all layers; 0 before it
        self.weights = _weights(part.linear) if part.linear else []
        self.grads: list[Tensor] = []
        self.before: Calls = []
        self.after: Calls = []
        self.squares: list[Tensor] = []
        self.sample: list[Tensor] = []
        named = part.norm.named_parameters() if part.norm else ()
        self.affine = [(name.rpartition(".")[2], each) for name, each in named if each.dim() == 1]

    def hooks(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        """Begin to watch the layer."""
        yield self.whole.register_forward_hook(self._passed)
        if self.act:
            # Before, not after: an activation may work in place.
            yield self.act.register_forward_pre_hook(self._entered)
            yield self.act.register_forward_hook(self._left)

    def values(self) -> dict[str, float]:
        """Return the quantities, but for the running statistics and histograms."""
        found: dict[str, float] = {}
        for names, calls in ((BEFORE, self.before), (AFTER, self.after)):
            if calls:
                found.update(zip(names, _pooled(calls), strict=False))
        if self.weights:
            found["weight_norm"] = _length([_square(weight.detach()) for weight in self.weights])
        if self.grads:
            found["grad_norm"] = _length([_square(grad) for grad in self.grads])
        if self.squares:
            found["output_grad_norm"] = _length(self.squares)
        return found

    def histograms(self) -> dict[str, Value]:
        """Return the histograms of activations, gamma and beta, as far as the layer has them."""
        counted = {"act": self.sample}
        for name, kind in (("gamma", "weight"), ("beta", "bias")):
            counted[name] = [each.detach() for leaf, each in self.affine if leaf == kind]
        return {
            f"{name}_histogram": _histogram(torch.cat(each))
            for name, each in counted.items()
            if each
        }

    def _entered(self, act: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = widest(inputs[0])
        steepest = _steepest(act)
        shares = [] if steepest is None else _shares(act, inputs, steepest)
        self.before.append((x.numel(), torch.stack([*_moments(x), *shares])))

    def _left(self, act: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        y = widest(output)
        self.after.append((y.numel(), torch.stack([*_moments(y), (y == 0).to(y).mean()])))
        count = min(y.numel(), SAMPLE)
        places = torch.arange(count, device=y.device) * y.numel() // count
        self.sample.append(y.detach().flatten()[places])

    def _passed(self, whole: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.place = self.place or next(self.places)
        if output.requires_grad:
            keep = self.squares.append
            output.register_hook(lambda grad: keep(_square(grad)))  # type: ignore[no-untyped-call]


@contextmanager
def _watching(layers: Sequence[Layer]) -> Iterator[None]:
    handles = [handle for layer in layers for handle in layer.hooks()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _differentiate(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    cast: Callable[[], AbstractContextManager[Any]],
    layers: Sequence[Layer],
) -> None:
    """Forward and backward of the mean loss over all batches, past the parameters' own `grad`."""
    for layer in layers:
        layer.grads = [torch.zeros_like(weight) for weight in layer.weights]
    weights = [weight for layer in layers for weight in layer.weights]
    totals = [grad for layer in layers for grad in layer.grads]
    images = sum(len(y) for _, y in batches)
    for x, y in batches:
        with torch.enable_grad(), cast():
            loss = F.cross_entropy(model(x), y) * (len(y) / images)
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
        for total, grad in zip(totals, grads, strict=True):
            if grad is not None:
                total.add_(grad)


def _children(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _weights(module: nn.Module) -> list[Tensor]:
    return [weight for weight in module.parameters() if weight.dim() >= 2]


def _steepest(act: nn.Module) -> float | None:
    """The largest |derivative| of an activation, None if it does not work on single values."""
    one = act.layers[0] if isinstance(act, OverTime) else act
    declared: float | None = getattr(one, "steepest", None)
    return STEEPEST.get(type(one), declared)


def _shares(act: nn.Module, inputs: tuple[Any, ...], steepest: float) -> list[Tensor]:
    """The shares of saturated values and of those in the linear zone."""
    x, *rest = inputs
    with torch.enable_grad():
        leaf = at_least_float32(x.detach()).requires_grad_()
        # Past the hooks; and of a copy, for it may work in place.
        y = act.forward(leaf.clone(), *rest)
        (slope,) = torch.autograd.grad(y.sum(), leaf)
    size = widest(slope).abs() / steepest
    flat = torch.zeros_like(size) if isinstance(act, nn.LeakyReLU) else size < FLAT
    return [values.to(size).mean() for values in (flat, size > STEEP)]


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean()
    return mean, (x - mean).square().mean()  # several times as fast as torch.var_mean


def _pooled(calls: Calls) -> list[float]:
    """Mean, standard deviation and shares of the values of all calls together."""
    sizes = torch.tensor([size for size, _ in calls], dtype=torch.float64)
    rows = torch.stack([row for _, row in calls]).cpu().double()
    weights = (sizes / sizes.sum()).unsqueeze(1)
    mean, var, *shares = (weights * rows).sum(0)
    between = (weights[:, 0] * (rows[:, 0] - mean).square()).sum()
    return [mean.item(), (var + between).sqrt().item(), *(share.item() for share in shares)]


def _histogram(x: Tensor) -> str | None:
    """Count values; None where none is finite."""
    x = x[x.isfinite()].float().cpu()
    if not len(x):
        return None
    low, high = x.min().item(), x.max().item()
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = torch.histc(x, BINS, low, high).tolist()
    return " ".join([f"{low:.6g}", f"{high:.6g}", *(f"{count:.0f}" for count in counts)])


def _square(x: Tensor) -> Tensor:
    return widest(x).square().sum()


def _length(squares: list[Tensor]) -> float:
    return math.sqrt(math.fsum(torch.stack(squares).tolist()))
