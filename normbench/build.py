"""From a config to its parts: model, optimizer, data; and the check that they fit each other."""

from __future__ import annotations

import math
from dataclasses import astuple
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from normbench import norms
from normbench.config import Config, part
from normbench.errors import Mistake, PartError, Refused
from normbench.inits._base import initialize
from normbench.models._base import Shape
from normbench.norms._base import Norm, Units, apply, check_refresh

if TYPE_CHECKING:
    from normbench.data._base import Dataset


SMALL = 2**19  # numbers in a batch up to which the check runs it for real


def norm(config: Config) -> Norm:
    """Make the norm of a config.

    Raises: NormError if it does not fit the run.
    """
    return norms.create(**config.norm).resolve(config.accumulate)


def model(config: Config, shape: Shape, classes: int) -> nn.Module:
    """Build the model: plain layers, filled by the initializer, then changed by the norm.

    So parameter paths and initial draws do not depend on the norm.
    """
    built = unfilled(config, shape, classes)
    initialize(built, part("init", config.init), config.activation, config.seed)
    apply(norm(config), built)
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
    built: nn.Module = part("model", config.model).build(units, shape, classes)
    return built


@cache
def dataset(kind: str, options: tuple[tuple[str, Any], ...]) -> Dataset:
    """Load a data set once per process; children forked later share it."""
    loaded: Dataset = part("data", {"name": kind, **{k: _thawed(v) for k, v in options}}).load()
    return loaded


def data(config: Config) -> Dataset:
    """Load the data of a config."""
    options = {key: value for key, value in config.data.items() if key != "name"}
    return dataset(config.data["name"], tuple((k, _frozen(v)) for k, v in options.items()))


def memory_format(config: Config) -> torch.memory_format:
    """Return the format of feature maps: that of the norm, where the model has such maps."""
    from normbench import registry

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
    small = batch * math.prod(shape) <= SMALL
    try:
        part("optimizer", config.optimizer)
        with torch.device("cpu" if small else "meta"), torch.no_grad():
            built = model(config, shape, classes) if small else _hollow(config, shape, classes)
            built.train()(torch.zeros(batch, *shape))
            if config.eval_stats == "dataset":
                check_refresh(norm(config), config.norm["name"], built)
        return None, norm(config).warnings(built)
    except PartError as error:
        return error, []


def _hollow(config: Config, shape: Shape, classes: int) -> nn.Module:
    """The model without values."""
    part("init", config.init)
    built = unfilled(config, shape, classes)
    apply(norm(config), built)
    return built


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _thawed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
