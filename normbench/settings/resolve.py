"""From checked settings to a config: every setting that follows from others gets its value."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench.errors import FileRefused, Mistake
from normbench.parts import registry
from normbench.parts.options import Declared, Unfit, copied, written
from normbench.runtime import machine, storage
from normbench.settings import inputs
from normbench.settings.declared import GROUPS, declared_keys, defaults
from normbench.settings.fields import AUTO, declared_options, default_part
from normbench.settings.naming import usual_activation, warmup_share
from normbench.settings.rules import grid_around
from normbench.settings.schema import Config, config_of

if TYPE_CHECKING:
    from normbench.data._base import DatasetInfo

WEIGHTS = "weights.safetensors"  # of a run, in its folder


def get(tree: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key in a tree, None if there is none."""
    value: Any = tree
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in a tree."""
    *path, last = key.split(".")
    for name in path:
        tree = tree.setdefault(name, {})
    tree[last] = value


def check_values(tree: dict[str, Any]) -> list[Mistake]:
    """Check types and ranges of a composed tree, and put the typed values back into it."""
    mistakes = []
    for key, declared in _declared(tree):
        value = get(tree, key)
        try:
            put(tree, key, declared.check(value))
        except Unfit as unfit:
            fix = f"{key}={written(unfit.fix)}"
            mistakes.append(Mistake(f"{key}={written(value)}", unfit.why, fix))
    return mistakes


def _declared(tree: Mapping[str, Any]) -> Iterator[tuple[str, Declared]]:
    for setting in declared_keys():
        yield setting.name, setting
    for group in GROUPS:
        for name, option in declared_options(group, tree[group]["name"]).items():
            yield f"{group}.{name}", option


def resolve(tree: dict[str, Any], about: DatasetInfo, here: bool = True) -> Config:
    """Make the config of a checked tree: every setting that follows from others gets its value.

    Args: here: whether the run will be on this machine.
    Raises: MachineError if the device is not here, or the port in use.
    """
    tree = copied(tree)
    tree["outputs"] = os.path.expanduser(tree["outputs"])
    if here:
        tree["device"] = machine.resolve_device(tree["device"], tree["gpus"])
        machine.check_port(tree["dist"]["port"])
    _resolve_norm(tree)
    _resolve_start(tree["init"])
    per_epoch = about.sizes[0] // tree["batch"]
    tree["steps"] = _steps(tree, per_epoch)
    # The steps say it, so all ways to say a length are one run.
    tree["epochs"] = tree["examples"] = None
    if tree["eval_every_steps"] is not None:
        tree["eval_every"] = tree["eval_every_steps"] / per_epoch
    elif tree["eval_every"] is None:
        tree["eval_every"] = tree["steps"] / per_epoch / 10
    tree["warmup"] = warmup_share(tree)
    tree["warmup_least"] = defaults()["warmup_least"]  # the share says it
    if tree["tune"] == "lr" and tree["tune_lrs"] is None:
        tree["tune_lrs"] = grid_around(tree["optimizer"]["lr"])
    for key in ("shifts", "test_blank_steps"):
        tree[key] = sorted(tree[key])  # a run is the same in whatever order it is tested
    tree["augment"] = inputs.ordered(tree["augment"])
    _resolve_shares(tree["norm"], tree["steps"] * tree["accumulate"])
    return config_of(tree, about)


def _resolve_norm(tree: dict[str, Any]) -> None:
    """Give placement, activation and bias the values that the norm, or else the model, has."""
    facts = registry.facts("norm", tree["norm"]["name"]).constants
    if tree["placement"] == "auto":
        tree["placement"] = facts["placement"]
    if tree["activation"]["name"] == AUTO:
        name = usual_activation(tree["norm"]["name"], tree["model"]["name"])
        tree["activation"] = default_part("activation", name)
    if tree["bias"] == "auto" and facts["bias"]:
        tree["bias"] = "on"


def _resolve_start(init: dict[str, Any]) -> None:
    """Give an initializer that reads a file that of the run it names, and its digest.

    Raises: FileRefused if it is not here.
    """
    if init.get("path") is None or "sha256" not in init:
        return
    place = Path(init["path"]).expanduser()
    file = place / WEIGHTS if place.is_dir() else place
    if not file.is_file():
        why = "is no file, and no folder of a run that kept its weights"
        fix = "init.path=outputs/runs/NAME/seed0    (normbench status lists runs)"
        raise FileRefused(str(file), why, fix)
    init |= {"path": str(file), "sha256": storage.digest(file)}


def _steps(tree: Mapping[str, Any], per_epoch: int) -> int:
    """Return the length in optimizer steps, however it is given."""
    steps = tree["steps"]
    if steps is None and tree["examples"] is not None:
        steps = max(1, round(tree["examples"] / tree["batch"]))
    return int(max(1, round(tree["epochs"] * per_epoch)) if steps is None else steps)


def _resolve_shares(norm: dict[str, Any], forwards: int) -> None:
    """Turn `x_share` of the run's training forwards into `x`."""
    for key, value in list(norm.items()):
        if isinstance(value, Mapping):
            _resolve_shares(norm[key], forwards)
        elif key.endswith("_share") and value is not None:
            norm[key], norm[key.removesuffix("_share")] = None, round(value * forwards)
