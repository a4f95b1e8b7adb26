"""From a config to its parts: model, optimizer, data; and the check that they fit each other."""

from __future__ import annotations

import math
from dataclasses import astuple
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from normbench import norms
from normbench.data._base import Dataset
from normbench.engine import transforms
from normbench.errors import InitError, Mistake, NormError, PartError, Refused
from normbench.inits._base import Init, initialize, set_gains
from normbench.models._base import Shape
from normbench.norms._base import Norm, Units, apply, check_refresh, plainly
from normbench.runtime import collectives
from normbench.settings.schema import Config, part

if TYPE_CHECKING:
    from normbench.engine.transforms import Scaling


KEPT = 4  # mixed data sets, which are copies, and scalings, which may hold a matrix of features
SMALL = 2**19  # numbers in a batch up to which the check runs it for real


def norm(config: Config) -> Norm:
    """Make the norm of a config.

    Raises: NormError if it does not fit the run.
    """
    return norms.create(**config.norm).resolve(config.accumulate)


def init(config: Config) -> Init:
    """Make the initializer of a config."""
    made: Init = part("init", config.init)
    return made


def model(config: Config, shape: Shape, classes: int) -> nn.Module:
    """Build the model: plain layers, filled by the initializer, then changed by the norm.

    So parameter paths and initial draws do not depend on the norm. What the initializer says of the
    norm's own parameters comes last.
    """
    built, start = unfilled(config, shape, classes), init(config)
    initialize(built, start, config.activation, config.seed)
    apply(norm(config), built)
    set_gains(built, start)
    return built


def unfilled(config: Config, shape: Shape, classes: int) -> nn.Module:
    """Build the model with plain linear layers that nobody has filled yet."""
    units = Units(
        norm(config),
        activation=config.activation,
        placement=config.placement,
        bias=config.bias,
        dropout=config.dropout,
    )
    built: nn.Module = part("model", config.model).build(units, _longest(config, shape), classes)
    return built


@cache
def dataset(kind: str, options: tuple[tuple[str, Any], ...]) -> Dataset:
    """Load a whole data set once per process; children forked later share it."""
    loaded: Dataset = part("data", {"name": kind, **dict(options)}).load()
    return loaded


def data(config: Config) -> Dataset:
    """Load the data of a config; configs that differ in `train_size` share the images."""
    options = {
        key: value for key, value in config.data.items() if key not in ("name", "train_size")
    }
    frozen = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in options.items())
    loaded = _first(dataset(config.data["name"], frozen), config.sizes[0])
    return _mixed(loaded) if config.mix != "none" else loaded


def scaling(config: Config) -> Scaling:
    """Return what the inputs of a config are made by, computed once per process."""
    return _scaling(config.inputs, data(config))


_first = cache(Dataset.first)
_mixed = lru_cache(KEPT)(transforms.mixed)
_scaling = lru_cache(KEPT)(transforms.scaling)


def memory_format(config: Config) -> torch.memory_format:
    """Return the format of feature maps: that of the norm, where the model has such maps."""
    from normbench.parts import registry

    spatial = registry.facts("model", config.model["name"]).constants["spatial"]
    last = spatial and norm(config).memory_format == "channels_last"
    return torch.channels_last if last else torch.contiguous_format


class Checked(NamedTuple):
    """What the parts of a config refuse, if anything, and what they warn of."""

    error: Refused | None
    warnings: list[Mistake]


def check(config: Config, shape: Shape, classes: int) -> Checked:
    """Build the model, run one batch of noise through it, and return what comes of it.

    A large batch runs on the meta device, which takes no memory; a small one costs less than the
    150 MiB and the second that torch needs to set that device up.
    """
    torch.set_num_threads(1)  # a pool of threads would not survive the fork of a sweep's children
    with collectives.planned(config.gpus):
        return _checked(config, shape, classes)


def _checked(config: Config, shape: Shape, classes: int) -> Checked:
    error, warnings = _tried(config, shape, classes, config.worker_batch)
    if error is None:
        return Checked(None, warnings)
    subject, why, fix = astuple(error.mistakes[0])
    chosen = f"norm={config.norm['name']}"
    if config.worker_batch == 1 and not _tried(config, shape, classes, 2)[0]:
        subject, why, fix = f"batch={config.batch}", f"{chosen}: {why}", f"batch={2 * config.batch}"
    elif subject.startswith("norm="):
        subject = chosen  # a layer knows its class, the user the name of the norm
    return Checked(Refused(Mistake(subject, why, fix)), [])


def _tried(
    config: Config, shape: Shape, classes: int, batch: int
) -> tuple[PartError | None, list[Mistake]]:
    try:
        part("optimizer", config.optimizer)
        start = init(config)
        own = min(start.at_once, config.sizes[0])
        small = max(batch, own) * math.prod(shape) <= SMALL
        with torch.device("cpu" if small else "meta"), torch.no_grad():
            built = model(config, shape, classes) if small else _hollow(config, shape, classes)
            start.check(built)
            built.train()(torch.zeros(batch, *shape))
            if config.eval_stats == "dataset":
                check_refresh(norm(config), config.norm["name"], built)
            if own:
                _settled(config, built, torch.zeros(own, *shape))
        if not small and type(norm(config)).linear is not Norm.linear:
            _weighed(config, shape, classes)
        return None, warnings(config, built)
    except PartError as error:
        return error, []


def _settled(config: Config, built: nn.Module, images: torch.Tensor) -> None:
    """Put as many images through the model at once as the initializer does."""
    try:
        with plainly(built):
            built(images)
    except NormError as error:
        _, why, fix = astuple(error.mistakes[0])
        why = f"norm={config.norm['name']}: {why}"
        raise InitError("batch", len(images), why, fix) from None


def _weighed(config: Config, shape: Shape, classes: int) -> None:
    """Let a norm of weights see theirs, which there are none of on the meta device."""
    built = model(config, shape, classes).train()
    with torch.no_grad(), plainly(built):
        built(torch.zeros(2, *shape))


def warnings(config: Config, built: nn.Module) -> list[Mistake]:
    """List what works in a model but may not be meant."""
    return [*norm(config).warnings(built), *init(config).warnings(built)]


def _hollow(config: Config, shape: Shape, classes: int) -> nn.Module:
    """The model without values."""
    built = unfilled(config, shape, classes)
    apply(norm(config), built)
    return built


def _longest(config: Config, shape: Shape) -> Shape:
    """The shape of an image with as many blank time steps before it as there are in training."""
    channels, height, width = shape
    if height % config.step_rows:
        return shape  # which the model refuses
    return channels, height + config.blank_steps * config.step_rows, width
