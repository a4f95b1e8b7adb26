"""The config of a run as its folder tells it: read back, and checked as one that is typed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normbench.errors import FileRefused, PartError, pasted, shown
from normbench.parts import registry
from normbench.parts.options import leaves, written
from normbench.runs.reader import CONFIG, FINAL, read_config, read_status
from normbench.settings import resolve
from normbench.settings.declared import GROUPS, defaults
from normbench.settings.fields import AUTO, declared_options, default_part
from normbench.settings.schema import Config, config_of, data_about


def finished(directory: Path) -> Config:
    """Read the config of a run that is finished or has diverged.

    Raises: FileRefused as `stored` does, or if it is not.
    """
    status = read_status(directory)
    if status is None:
        fix = "outputs/runs/NAME/seed0    (normbench compare lists what is there)"
        raise FileRefused(str(directory), "is not the folder of a run", fix)
    if status["state"] not in FINAL:
        why = f"is {status['state']}, and only a finished run has its weights"
        fix = "normbench train with its settings, which trains what is left"
        raise FileRefused(str(directory), why, fix)
    return stored(directory)


def stored(directory: Path) -> Config:
    """Read the config of a run, with the defaults of settings that are newer than it.

    Raises: FileRefused if the folder is none of a run, its file is damaged, changed by hand or of
        another layout, or its data is not here or is other data.
    """
    maps = read_config(directory)
    path = directory / CONFIG
    place = directory.absolute().parents[2]
    outputs = place if directory.is_absolute() else os.path.relpath(place)
    more = maps["execution"].pop("data", None) or {}
    config = checked(path, {**maps["execution"], **maps["experiment"], "outputs": outputs}, more)
    *_, runs, name, seed = ("", "", *directory.absolute().parts)
    if (config.name, config.directory.name, "runs") != (name, seed, runs):
        why = f"is of {config.name}/{config.directory.name}, with the data that is here"
        raise changed(path, f"{why}, and not of {shown(f'{runs}/{name}/{seed}')}")
    return config


def checked(path: Path, given: Mapping[str, Any], data: Mapping[str, Any] | None = None) -> Config:
    """Make the config of settings that a file holds, checked as those that are typed.

    Args: data: further options of the data, of which it may not know some.
    Raises: FileRefused, naming `path`, or if the data is not here.
    """
    tree = _tree(path, given)
    known = declared_options("data", tree["data"]["name"])
    tree["data"] |= {key: value for key, value in (data or {}).items() if key in known}
    tree["outputs"] = str(tree["outputs"])
    for mistake in resolve.check_values({**tree, "seed": max(0, _number(tree["seed"]))}):
        raise changed(path, f"{mistake.subject}: {mistake.why}")
    return _known(path, tree)


def _tree(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the settings of a file; a part or setting that is not known is refused."""
    tree: dict[str, Any] = {}
    for key, value in defaults().items():
        resolve.put(tree, key, value)
    for group in GROUPS:
        part = given.get(group)
        name = part.get("name") if isinstance(part, dict) else part
        names = registry.names(group)
        known = isinstance(name, str) and all(each in names for each in name.split("+"))
        if not isinstance(part, dict) or not (known or (group, name) == ("activation", AUTO)):
            why = f"{group}={shown(name)} is no part of this normbench"
            raise FileRefused(str(path), why, "--parts DIR, the folder that has it, or its package")
        tree[group] = default_part(group, str(name))
    known_keys = {key for key, _ in leaves(tree)} | {"tune_lrs"}
    for key, value in leaves({key: given[key] for key in given if key != "data"}):
        if key not in known_keys:
            raise changed(path, f"{key}={shown(written(value))} is no setting of this normbench")
        resolve.put(tree, key, value)
    options = {"name", *declared_options("data", tree["data"]["name"])}
    if strange := sorted(given["data"].keys() - options):
        raise changed(path, f"data.{shown(strange[0])} is no setting of this normbench")
    tree["data"] |= given["data"]
    return tree


def _known(path: Path, tree: dict[str, Any]) -> Config:
    try:
        return config_of(tree, data_about(tree))
    except PartError as error:
        raise changed(path, f"{error.mistakes[0].subject}: {error.mistakes[0].why}") from None


def _number(value: object) -> int:
    return value if type(value) is int else 0


def changed(path: Path, why: str) -> FileRefused:
    """Return the error for settings that are not as normbench wrote them."""
    again = f"rm -r {pasted(path.parent)}    (and train it again: it has been changed)"
    return FileRefused(str(path), why, again)
