"""From a config to its parts: norm, initializer, model, data and their scaling."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normbench import norms
from normbench.data._base import Dataset
from normbench.data._resample import resampled
from normbench.engine import transforms
from normbench.errors import ModelError
from normbench.inits._base import LAYERS, Init, initialize, set_gains
from normbench.models._base import Shape
from normbench.norms._base import Norm
from normbench.norms._units import Activation, Shifting, UnitBuilder, apply
from normbench.parts import registry
from normbench.runtime import machine
from normbench.settings.fields import AUTO
from normbench.settings.schema import Config, data_about, part

if TYPE_CHECKING:
    from normbench.engine.transforms import Scaling

KEPT = 4  # mixed data sets, which are copies, and scalings, which may hold a matrix of features


def norm(config: Config) -> Norm:
    """Make the norm of a config.

    Raises: NormError if it does not fit the run.
    """
    return norms.create(**config.norm).resolve(config.accumulate)


def init(config: Config) -> Init:
    """Make the initializer of a config."""
    made: Init = part("init", config.init)
    return made


def activation(config: Config) -> Activation | str:
    """Make the activation of a config; `auto` where each model has its own."""
    if config.activation["name"] == AUTO:
        return AUTO
    made: Activation = part("activation", config.activation)
    return made


def model(config: Config, shape: Shape, classes: int) -> nn.Module:
    """Build the model: plain layers, filled by the initializer, then changed by the norm.

    So parameter paths and initial draws do not depend on the norm. What the initializer says of the
    norm's own parameters comes last.
    """
    built, start, act = unfilled(config, shape, classes), init(config), config.activation["name"]
    # A model's own activations are ReLU and its relatives, which have its gain.
    initialize(built, start, "relu" if act == AUTO else act, config.seed)
    apply(norm(config), built)
    start.finish(built)
    set_gains(built, start)
    return built


def unfilled(config: Config, shape: Shape, classes: int) -> nn.Module:
    """Build the model with plain linear layers that nobody has filled yet."""
    units = UnitBuilder(
        norm(config),
        activation=activation(config),
        placement=config.placement,
        bias=config.bias,
        dropout=config.dropout,
    )
    units.noise = config.noise
    built: nn.Module = part("model", config.model).build(units, _longest(config, shape), classes)
    if config.noise and not any(isinstance(each, Shifting) for each in built.modules()):
        why = f"noise={config.noise:g} has no place: norm={config.norm['name']} is in no unit"
        raise ModelError("", config.model["name"], why, "noise=0")
    init(config).extend(built)
    return built


@cache
def dataset(kind: str, options: tuple[tuple[str, Any], ...]) -> Dataset:
    """Load a whole data set once per process; children forked later share it."""
    loaded: Dataset = part("data", {"name": kind, **dict(options)}).load()
    return loaded


def data(config: Config) -> Dataset:
    """Load the data of a config; configs that differ in `train_size` share the images."""
    options = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config.data.items()
        if key not in ("name", "train_size", "resample")
    }
    with machine.one_thread():  # a pool of threads would not survive the fork of children
        whole, size = dataset(config.data["name"], tuple(options.items())), config.sizes[0]
        if config.data.get("resample"):
            cut = "val" in data_about({"data": config.data}).cut
            loaded = _resampled(whole, config.seed, size, cut)
        else:
            loaded = _first(whole, size)
        return _mixed(loaded) if config.mix != "none" else loaded


def scaling(config: Config) -> Scaling:
    """Return what the inputs of a config are made by, computed once per process."""
    with machine.one_thread():
        return _scaling(config.inputs, data(config))


_first = cache(Dataset.first)
_resampled = lru_cache(1)(resampled)  # a copy of the images
_mixed = lru_cache(KEPT)(transforms.mixed)
_scaling = lru_cache(KEPT)(transforms.scaling)


def work(config: Config) -> int:
    """Count the multiply-adds of the linear layers for one image; without a norm."""
    return _work(tuple(config.model.items()), config.shape, config.classes)


@cache
def _work(model: tuple[tuple[str, Any], ...], shape: Shape, classes: int) -> int:
    built = part("model", dict(model)).build(UnitBuilder(norms.create("none")), shape, classes)
    count = 0

    def add(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal count
        count += output.numel() * layer.get_parameter("weight")[0].numel()

    layers = [layer for layer in built.modules() if isinstance(layer, LAYERS)]
    with machine.one_thread(), torch.inference_mode(), ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(add))
        built.eval()(torch.zeros(1, *shape))
    return count


def memory_format(config: Config) -> torch.memory_format:
    """Return the format of feature maps: that of the norm, where the model has such maps."""
    spatial = registry.facts("model", config.model["name"]).constants["spatial"]
    last = spatial and norm(config).memory_format == "channels_last"
    return torch.channels_last if last else torch.contiguous_format


def _longest(config: Config, shape: Shape) -> Shape:
    """The shape of an image with as many blank time steps before it as there are in training."""
    channels, height, width = shape
    if height % config.step_rows:
        return shape  # which the model refuses
    return channels, height + config.blank_steps * config.step_rows, width


def alone(config: Config) -> Config:
    """Give a config for one process, on the device that is to judge."""
    device = machine.resolve_device(config.judging_device or config.device, 1)
    sized = config.batch // max(config.worker_batch, config.stat_batch)
    accumulate = config.accumulate if config.gpus == 1 else sized
    return replace(config, device=device, gpus=1, accumulate=accumulate)
