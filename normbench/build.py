"""From a config to its parts: model, optimizer, data; and the check that they fit each other."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from normbench import norms
from normbench.config import Config, part
from normbench.errors import NormbenchError, PartError
from normbench.inits._base import initialize
from normbench.models._base import Shape
from normbench.norms._base import Norm, Units, apply

if TYPE_CHECKING:
    from normbench.data._base import Dataset


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


def check(config: Config, shape: Shape, classes: int) -> NormbenchError | None:
    """Build and run the model without data or memory, and return what it refuses, if anything."""
    error = _refusal(config, shape, classes, config.worker_batch)
    if error and config.worker_batch == 1 and not _refusal(config, shape, classes, 2):
        why = f"norm={config.norm['name']}: {error.mistakes[0].why}"
        return NormbenchError(f"batch={config.batch}", why, f"batch={2 * config.batch}")
    return error


def _refusal(config: Config, shape: Shape, classes: int, batch: int) -> PartError | None:
    try:
        with torch.device("meta"), torch.no_grad():
            built = unfilled(config, shape, classes)
            part("init", config.init)
            part("optimizer", config.optimizer)
            apply(norm(config), built)
            built.train()(torch.empty(batch, *shape))
    except PartError as error:
        return error
    return None


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _thawed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
