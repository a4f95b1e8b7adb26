"""What the layers of a net do at one moment, in float64: size, rank, likeness, sampling error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normbench.engine import diagnostics
from normbench.norms._modes import batch_statistics

TOLERANCE = 1e-5  # of the largest singular value: smaller ones do not count for a rank
TINY, HUGE = 1e-300, 1e300  # what sizes are clipped to before the logarithm
LINEAR = "linear "  # before the path of a layer: its linear layer alone
Moments = dict[str, tuple[Tensor, Tensor]]
Layers = dict[str, dict[str, float]]  # quantities by path, in the order in which the layers run


@torch.no_grad()
def layers(model: nn.Module, x: Tensor, y: Tensor, gradients: bool = True) -> Layers:
    """Measure each layer on images `x` (N, C, H, W) with labels `y`, as one batch of training.

    The quantities of `engine.diagnostics` but for those of running statistics, and

        act_second          mean square of what comes out of the activation
        weight_var_fan_in   variance of the linear layer's weights (biased) times its fan-in
        relative_grad       grad_norm / weight_norm, where that is not 0

    Args: model: in float64; its parameters, buffers and modes stay as they are; gradients: measure
    those of the loss, too.
    """
    seen = diagnostics.watched(model, [(x, y)], nullcontext, gradients)
    found = {layer.path: layer.values() for layer in seen}
    parts = dict(diagnostics.parts(model))
    for path, values in found.items():
        if "act_std" in values:
            values["act_second"] = values["act_mean"] ** 2 + values["act_std"] ** 2
        weight = getattr(parts[path].linear, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() >= 2:
            var = float((weight - weight.mean()).square().mean())
            values["weight_var_fan_in"] = var * weight[0].numel()
        if "grad_norm" in values and values["weight_norm"]:
            values["relative_grad"] = values["grad_norm"] / values["weight_norm"]
    return found


def hidden(found: Layers) -> list[str]:
    """List the layers that end in an activation."""
    return [path for path, values in found.items() if "act_second" in values]


def growth(values: Sequence[float]) -> float:
    """Fit ln(value) by a line over the layers and return its slope: the mean log of the factor.

    Values are clipped to 1e-300 .. 1e300. Not a number for less than two values.
    """
    if len(values) < 2:
        return math.nan
    logs = [math.log(min(max(value, TINY), HUGE)) for value in values]
    return slope(range(len(logs)), logs)


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the slope of the least-squares line through points."""
    x, y = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    over = math.fsum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return over / math.fsum((a - x) ** 2 for a in xs)


@torch.no_grad()
def features(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return what each layer gives for `x` as one batch of training, (N, F) by path.

    Positions are features; of a layer that is called several times the last call counts.
    """
    kept: dict[str, Tensor] = {}

    def keep(path: str, _: nn.Module, inputs: Any, output: Tensor) -> None:
        kept[path] = output.flatten(1)

    hooks = {part.whole: partial(keep, path) for path, part in diagnostics.parts(model)}
    with batch_statistics(model), _hooked(hooks):
        model(x)
    return kept


@torch.no_grad()
def moments(model: nn.Module, x: Tensor) -> Moments:
    """Return mean and deviation of each unit (C,), for `x` as one batch of training, by layer.

    Of what the norm of a layer gives, and under the path with `linear` before it of what its linear
    layer gives; of a layer without a norm both are the same.
    """
    kept: Moments = {}

    def keep(names: Sequence[str], _: nn.Module, inputs: Any, output: Tensor) -> None:
        units = output.transpose(0, 1).flatten(1)
        for name in names:
            kept[name] = units.mean(1), units.std(1, correction=0)

    hooks: dict[nn.Module, Callable[..., None]] = {}
    for path, part in diagnostics.parts(model):
        if part.linear is not None and part.act is not None:
            hooks[part.linear] = partial(keep, [LINEAR + path, path])
            if part.norm is not None:  # which comes after it
                hooks[part.norm] = partial(keep, [path])
    with batch_statistics(model), _hooked(hooks):
        model(x)
    return kept


def drifts(before: Moments, after: Moments) -> Layers:
    """Return `drift` and `linear_drift` by layer: the mean over units of |change of mean| / std.

    The deviation is that before. Units without one are left out, and layers without any other.
    """
    found: Layers = {}
    for name, (mean, std) in before.items():
        kept = std > 0
        if kept.any():
            change = ((after[name][0] - mean).abs() / std)[kept].mean()
            linear = name.startswith(LINEAR)
            quantity = "linear_drift" if linear else "drift"
            found.setdefault(name.removeprefix(LINEAR), {})[quantity] = float(change)
    return found


def rank(values: Tensor) -> int:
    """Count the singular values of a matrix above 1e-5 of the largest one."""
    if not values.any():
        return 0
    gram = values @ values.T if len(values) <= values.shape[1] else values.T @ values
    squares = torch.linalg.eigvalsh(gram / gram.abs().max())
    return int((squares > TOLERANCE**2 * squares[-1]).sum())


def cka(a: Tensor, b: Tensor) -> float:
    """Return the likeness 0 .. 1 of two sets of features of the same N samples, (N, F) and (N, G).

    |B'A|^2 / (|A'A| |B'B|) in Frobenius norms, of columns without their means; not a number where
    one set is constant. Source: Kornblith et al. 2019, arXiv 1905.00414, linear CKA.
    """
    one, other = ((each - each.mean(0)) @ (each - each.mean(0)).T for each in (a, b))
    return float((one * other).sum() / (one.norm() * other.norm()))


@torch.no_grad()
def sampling(
    model: nn.Module, x: Tensor, sizes: Sequence[int], draws: int, generator: torch.Generator
) -> Layers:
    """Measure how far statistics of few samples are from those of all of `x`, by layer.

    Of what each linear layer gives: `mean_error/m`, the root mean square over channels and draws
    of (mean - M) / S, and `std_error/m` that of ln(std / S), where mean and std are of m samples,
    drawn with replacement, with all their positions, and M and S of all samples. Channels that are
    constant are left out.

    Args: sizes: the m; draws: of each.
    """
    kept: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(path: str, _: nn.Module, inputs: Any, output: Tensor) -> None:
        values = output.flatten(2) if output.dim() > 2 else output.unsqueeze(2)
        kept[path] = values.mean(2), values.square().mean(2)

    hooks = {
        part.linear: partial(keep, path)
        for path, part in diagnostics.parts(model)
        if part.linear is not None and part.act is not None
    }
    with batch_statistics(model), _hooked(hooks):
        model(x)
    drawn = {m: torch.randint(len(x), (draws, m), generator=generator) for m in sizes}
    shares = {  # of each sample in each draw, (draws, N)
        m: x.new_zeros(draws, len(x)).scatter_add_(1, index.to(x.device), x.new_ones(draws, m)) / m
        for m, index in drawn.items()
    }
    return {
        path: {
            f"{name}/{m}": error
            for m, share in shares.items()
            for name, error in zip(("mean_error", "std_error"), _errors(*both, share), strict=True)
        }
        for path, both in kept.items()
    }


def _errors(mean: Tensor, second: Tensor, share: Tensor) -> tuple[float, float]:
    """Compare draws, by the share (draws, N) of each sample, with all: mean, second: (N, C)."""
    all_mean = mean.mean(0)
    deviation = (second.mean(0) - all_mean.square()).clamp_min(0).sqrt()
    kept = deviation > TOLERANCE * second.mean(0).sqrt()
    few = share @ mean
    var = share @ second - few.square()
    far = ((few - all_mean) / deviation)[:, kept]
    ratio = (var / deviation.square())[:, kept]
    logs = ratio[ratio > 0].log() / 2
    return tuple(float(each.square().mean().sqrt()) for each in (far, logs))  # type: ignore[return-value]


@contextmanager
def _hooked(hooks: Mapping[nn.Module, Callable[..., None]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
