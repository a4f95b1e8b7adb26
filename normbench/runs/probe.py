"""Measures nets at their start, as finished runs have kept them, or while they train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from normbench.engine import diagnostics, probe
from normbench.engine.probe import Layers, growth, slope
from normbench.engine.sampler import Sampler
from normbench.runs import along, build
from normbench.runs.job import Job, empty_model
from normbench.runs.state import load
from normbench.runtime import machine, rng
from normbench.settings.schema import Config

SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512)  # samples behind a statistic
MEANS = (  # over the layers
    *("saturated", "linear_zone", "zeros", "weight_var_fan_in", "cka"),
    *("drift", "linear_drift", "settled"),
)
POOL, DRAWS = 2000, 60  # images that are drawn from, and how often for each size


@dataclass(frozen=True)
class Asked:
    """What is measured besides sizes of activations and gradients.

    Args: span: numbers of the first and the last layer that growth and means are taken over, all
    hidden ones by default; rank: ranks of what layers give; sampling: errors of statistics;
    gradients: those of the loss, which take two thirds of the time; along: how often to look at
    the net while it trains, at whose end it is measured; 0: it is not trained.
    """

    span: tuple[int, int] | None = None
    rank: bool = False
    sampling: bool = False
    gradients: bool = True
    along: int = 0


@dataclass(frozen=True)
class Measured:
    """The numbers of one net, and those of each of its layers by path.

    metrics: `parameters`; of the hidden layers of the span `growth/activation`, the slope of
    ln(mean square of the activation) on the layer's number, `growth/gradient` and
    `growth/weight_gradient`, that of ln(norm of the loss's gradient) by what a layer gives and by
    its weight, toward the input, `growth/relative_gradient` that of the latter over the weight's
    norm; the means `saturated`, `linear_zone`, `zeros`, `weight_var_fan_in`; `rank` of what the
    last one gives, `weight_rank` of the first one's weight, a row per unit; `sampling/mean` and
    `sampling/std`, the slope of log2(error) on log2(samples), the mean over layers; `cka`, the mean
    likeness to the start; of a net that was watched the means `drift`, `linear_drift`, `settled`,
    `growth/drift`, the slope of ln(drift) on the layer's number, and `slope/settled`.
    """

    metrics: dict[str, float]
    layers: Layers


def measure(config: Config, asked: Asked, kept: Mapping[str, Tensor] | None = None) -> Measured:
    """Measure the net of a config in float64, on its first batch.

    Args: kept: weights of the finished run, in place of those at its start.
    Returns: nothing of weights that are not finite.
    Raises: FileRefused if the weights do not fit; what making the net raises.
    """
    machine.prepare(config.threads)
    one = build.alone(config)
    job = Job(replace(one, device="cpu") if one.device == "mps" else one)  # mps has no float64
    for _ in job.start():
        pass
    start = job.model.double()
    order = Sampler().batches(job.train.labels, one.batch, one.seed, 0)[0]
    x, y = job.train.gather(order.to(job.train.device))
    x = x.double()
    net = start
    course: Layers = {}
    if asked.along:
        net, course = along.trained(Job(job.config), x, asked.along)
    if kept is not None:
        net = empty_model(job.config)
        load(net, kept, config)
        net = net.double()
    finite = all(bool(each.isfinite().all()) for each in net.state_dict().values())
    if not finite or (asked.along and not course):
        return Measured({}, {})
    layers = probe.layers(net, x, y, asked.gradients)
    for path, values in course.items():
        layers[path] |= values
    if asked.rank or net is not start:
        _add(layers, net, x, asked.rank, start if net is not start else None)
    if asked.sampling:
        pool = job.train.gather(torch.arange(min(POOL, len(job.train)), device=x.device))[0]
        random = rng.generator(one.seed, "subset")
        for path, errors in probe.sampling(net, pool.double(), SIZES, DRAWS, random).items():
            layers[path] |= errors
    return Measured(_metrics(net, layers, asked), layers)


def _add(layers: Layers, net: nn.Module, x: Tensor, rank: bool, start: nn.Module | None) -> None:
    """Add what is found from all activations at once: `rank`, and `cka` to those of the start."""
    features = probe.features(net, x)
    before = probe.features(start, x) if start is not None else {}
    parts = dict(diagnostics.parts(net))
    for path, values in layers.items():
        if rank and path in features:
            values["rank"] = probe.rank(features[path])
        weight = getattr(parts[path].linear, "weight", None)
        if rank and isinstance(weight, Tensor) and weight.dim() >= 2:
            values["weight_rank"] = probe.rank(weight.detach().flatten(1))
        if path in features and path in before:
            values["cka"] = probe.cka(features[path], before[path])


def _metrics(net: nn.Module, layers: Layers, asked: Asked) -> dict[str, float]:
    first, last = asked.span or (1, len(layers))
    numbered = dict(zip(layers, range(1, len(layers) + 1), strict=True))
    hidden = [path for path in probe.hidden(layers) if first <= numbered[path] <= last]

    def found(quantity: str) -> list[float]:
        return [layers[path][quantity] for path in hidden if quantity in layers[path]]

    metrics = {
        "parameters": float(sum(each.numel() for each in net.parameters())),
        "growth/activation": growth(found("act_second")),
    }
    if asked.gradients:
        metrics["growth/gradient"] = -growth(found("output_grad_norm"))
        metrics["growth/weight_gradient"] = -growth(found("grad_norm"))
        metrics["growth/relative_gradient"] = -growth(found("relative_grad"))
    for quantity in MEANS:
        metrics |= {quantity: _mean(found(quantity))} if found(quantity) else {}
    for name, quantity, made in (("growth", "drift", growth), ("slope", "settled", _tilt)):
        metrics |= {f"{name}/{quantity}": made(found(quantity))} if found(quantity) else {}
    if ranks := found("rank"):
        metrics["rank"] = ranks[-1]
    if ranks := found("weight_rank"):
        metrics["weight_rank"] = ranks[0]
    if asked.sampling:
        logs = [math.log2(m) for m in SIZES]
        for name in ("mean", "std"):
            errors = [[layers[path][f"{name}_error/{m}"] for m in SIZES] for path in hidden]
            slopes = [slope(logs, [math.log2(each) for each in one]) for one in errors]
            metrics[f"sampling/{name}"] = _mean(slopes)
    return metrics


def _tilt(values: Sequence[float]) -> float:
    return slope(range(len(values)), values) if len(values) > 1 else math.nan


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
