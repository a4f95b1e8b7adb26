"""The check of a config: whether its parts fit each other, found out by building the model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import astuple
from typing import NamedTuple

import torch
from torch import Tensor, nn

from normbench.errors import FileRefused, InitError, Mistake, NormError, PartError, Refused
from normbench.models._base import Shape
from normbench.norms._modes import batch_statistics, check_update_bn
from normbench.orders._base import Order
from normbench.parts import registry
from normbench.runs import build
from normbench.runtime import collectives, machine
from normbench.settings.advice import advice
from normbench.settings.schema import Config, part

FEW = 2  # images that show what a batch of any size would
# Settings of the model, whatever they are the numbers of; of the batch there are further ones.
BUILT = (
    "model",
    "norm",
    "init",
    "activation",
    "placement",
    "bias",
    "dropout",
    "noise",
    "blank_steps",
)


class Checked(NamedTuple):
    """What the parts of a config refuse, if anything, and what they warn of."""

    error: Refused | None
    warnings: list[Mistake]


def check_fit(
    config: Config, shape: Shape, classes: int, seen: dict[str, Checked] | None = None
) -> Checked:
    """Build the model, run a few blank images through it, and return what comes of it.

    Args: seen: what came of earlier cells of a sweep, by all that decides it; is added to.
    """
    # A pool of threads would not survive the fork of a sweep's children.
    with machine.one_thread(), collectives.planned(config.gpus):
        try:
            part("optimizer", config.optimizer)
            part("schedule", config.schedule)
            _check_order(config)
        except PartError as error:
            return Checked(Refused(*error.mistakes), [])
        chosen = [getattr(config, key) for key in (*BUILT, "worker_batch", "gpus", "accumulate")]
        asked = repr((chosen, config.eval_stats == "dataset", config.sizes[0], shape, classes))
        seen = {} if seen is None else seen
        if asked not in seen:
            seen[asked] = _checked(config, shape, classes)
    found = seen[asked]
    return found if found.error else Checked(None, [*_beside(config), *found.warnings])


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
        start = build.init(config)
        own = min(start.at_once, config.sizes[0])
        with torch.no_grad():
            built = build.model(config, shape, classes).train()
            start.check(built)
            whole = foreign(config)
            _put_through(built, batch, shape, whole)
            if config.eval_stats == "dataset":
                check_update_bn(build.norm(config), config.norm["name"], built)
            if own:
                _settled(config, built, own, shape, whole)
        return None, _of_parts(config, built)
    except PartError as error:
        return error, []


def foreign(config: Config) -> bool:
    """Tell whether a part is of another package, whose rules for batches nobody knows."""
    chosen = ((group, getattr(config, group)["name"]) for group in ("norm", "model", "init"))
    members = ((group, member) for group, name in chosen for member in name.split("+"))
    return any(registry.facts(*member).package != "normbench" for member in members)


def _put_through(built: nn.Module, batch: int, shape: Shape, whole: bool) -> None:
    """Put a batch through the model: a few images of it, where its layers do with that.

    What a layer asks of the size of a batch is the least number of values, so that a few images are
    refused if the batch is, or sets into which all of it is cut, which are asked for beforehand.

    Raises: PartError that names the whole batch.
    """
    few = batch if whole else min(FEW, batch)

    def cut(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        layer.stat_groups(inputs[0][:1].expand(batch, *inputs[0].shape[1:]))  # type: ignore[operator]

    with ExitStack() as hooks:
        for layer in built.modules():
            if few < batch and hasattr(layer, "stat_groups"):
                hooks.enter_context(layer.register_forward_pre_hook(cut))
        try:
            built(torch.zeros(few, *shape))
            return
        except PartError:
            if few == batch:
                raise
    built(torch.zeros(batch, *shape))


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


def _settled(config: Config, built: nn.Module, own: int, shape: Shape, whole: bool) -> None:
    """Put as many images through the model at once as the initializer does."""
    try:
        with batch_statistics(built):
            _put_through(built, own, shape, whole)
    except NormError as error:
        _, why, fix = astuple(error.mistakes[0])
        why = f"norm={config.norm['name']}: {why}"
        raise InitError("batch", own, why, fix) from None


def warnings(config: Config, built: nn.Module) -> list[Mistake]:
    """List what works in a model, or with the data, but may not be meant."""
    return [*_beside(config), *_of_parts(config, built)]


def _of_parts(config: Config, built: nn.Module) -> list[Mistake]:
    return [*build.norm(config).warnings(built), *build.init(config).warnings(built)]


def _beside(config: Config) -> list[Mistake]:
    """List what may not be meant, whatever the model."""
    subject, fix = f"data={config.data['name']}", "more of them, or val/ and test/ with some"
    away = "move it out of the folder"
    found = [
        Mistake(subject, text, fix if text.startswith("images") else away)
        for text in config.lacking
    ]
    return [*advice(config), *found]
