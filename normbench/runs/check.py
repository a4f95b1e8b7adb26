"""The check of a config: whether its parts fit each other, found out by building the model."""

from __future__ import annotations

import math
from dataclasses import astuple
from typing import NamedTuple

import torch
from torch import nn

from normbench.errors import FileRefused, InitError, Mistake, NormError, PartError, Refused
from normbench.models._base import Shape
from normbench.norms._base import Norm
from normbench.norms._modes import batch_statistics, check_update_bn
from normbench.norms._units import apply
from normbench.orders._base import Order
from normbench.runs import build
from normbench.runtime import collectives, machine
from normbench.settings.advice import advice
from normbench.settings.schema import Config, part

SMALL = 2**19  # numbers in a batch up to which the check runs it for real


class Checked(NamedTuple):
    """What the parts of a config refuse, if anything, and what they warn of."""

    error: Refused | None
    warnings: list[Mistake]


def check_fit(config: Config, shape: Shape, classes: int) -> Checked:
    """Build the model, run one batch of noise through it, and return what comes of it.

    A large batch runs on the meta device, which takes no memory; a small one costs less than the
    150 MiB and the second that torch needs to set that device up.
    """
    # A pool of threads would not survive the fork of a sweep's children.
    with machine.one_thread(), collectives.planned(config.gpus):
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
        part("schedule", config.schedule)
        _check_order(config)
        start = build.init(config)
        own = min(start.at_once, config.sizes[0])
        small = max(batch, own) * math.prod(shape) <= SMALL
        with torch.device("cpu" if small else "meta"), torch.no_grad():
            built = (
                build.model(config, shape, classes) if small else _hollow(config, shape, classes)
            )
            start.check(built)
            built.train()(torch.zeros(batch, *shape))
            if config.eval_stats == "dataset":
                check_update_bn(build.norm(config), config.norm["name"], built)
            if own:
                _settled(config, built, torch.zeros(own, *shape))
        if not small and type(build.norm(config)).linear is not Norm.linear:
            _weighed(config, shape, classes)
        return None, warnings(config, built)
    except PartError as error:
        return error, []


def _check_order(config: Config) -> None:
    """Ask the order whether it can make batches of so many images of each class."""
    order: Order = part("order", config.order)
    if type(order).check is Order.check:
        return
    try:
        labels = build.data(config).train.labels
        sizes = torch.bincount(labels.cpu(), minlength=config.classes).tolist()
    except FileRefused:  # it will be downloaded, and published sets have equal classes, or nearly
        sizes = [config.sizes[0] // config.classes] * config.classes
    order.check(config.batch, sizes, config.label)


def _settled(config: Config, built: nn.Module, images: torch.Tensor) -> None:
    """Put as many images through the model at once as the initializer does."""
    try:
        with batch_statistics(built):
            built(images)
    except NormError as error:
        _, why, fix = astuple(error.mistakes[0])
        why = f"norm={config.norm['name']}: {why}"
        raise InitError("batch", len(images), why, fix) from None


def _weighed(config: Config, shape: Shape, classes: int) -> None:
    """Let a norm of weights see theirs, which there are none of on the meta device."""
    built = build.model(config, shape, classes).train()
    with torch.no_grad(), batch_statistics(built):
        built(torch.zeros(2, *shape))


def warnings(config: Config, built: nn.Module) -> list[Mistake]:
    """List what works in a model, or with the data, but may not be meant."""
    parts = [*build.norm(config).warnings(built), *build.init(config).warnings(built)]
    subject, fix = f"data={config.data['name']}", "more of them, or val/ and test/ with some"
    lacking = [Mistake(subject, text, fix) for text in config.lacking]
    return [*advice(config), *lacking, *parts]


def _hollow(config: Config, shape: Shape, classes: int) -> nn.Module:
    """The model without values."""
    built = build.unfilled(config, shape, classes)
    apply(build.norm(config), built)
    return built
