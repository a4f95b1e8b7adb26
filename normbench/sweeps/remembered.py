"""What is trained, as folders tell it: a run's own settings, and the plan that a sweep keeps.

Settings are plain data, checked as those that are typed; a command line is never read again.
Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from normbench.errors import FileRefused, Mistake, shown
from normbench.runs import stored
from normbench.runs.reader import CONFIG, read_status, unlike_setting
from normbench.runtime import machine, storage
from normbench.settings import rules
from normbench.settings.cell import Cell
from normbench.settings.fields import AUTO
from normbench.settings.schema import Config, data_about
from normbench.sweeps.plan import Sweep
from normbench.sweeps.records import SWEEP, SWEEP_BYTES


class Remembered(NamedTuple):
    """The cells of a command; whether it was a sweep, and its words as they were typed."""

    cells: list[Cell]
    multirun: bool = False
    words: tuple[str, ...] = ()


def plan(sweep: Sweep) -> dict[str, Any]:
    """Give the cells of a sweep as plain data: the settings that all share, and those of each."""
    trees = [planned.config.plain() for planned in sweep.cells]
    first = trees[0]
    common = {key: first[key] for key in first if all(tree[key] == first[key] for tree in trees)}
    del common["outputs"]
    cells = [
        {
            "words": list(planned.cell.row),
            "idle": list(planned.cell.idle),
            "data": planned.config.digest,
            "settings": {key: tree[key] for key in tree if key not in (*common, "outputs")},
        }
        for planned, tree in zip(sweep.cells, trees, strict=True)
    ]
    left_out = [
        {
            "words": list(cell.row),
            "why": [[each.subject, each.why, each.fix] for each in cell.misfits],
        }
        for cell in sweep.skipped
    ]
    return {"settings": common, "cells": cells, "left_out": left_out}


def identity(configs: Iterable[Config]) -> str:
    """Name what the cells of a sweep train and ask, whatever comes of it."""
    names = sorted({name for config in configs for name in _names(config)})
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]


def _names(config: Config) -> Iterator[str]:
    """Name the runs of a cell, or what will decide which they are."""
    if config.tune == "lr" or config.seeds == AUTO:
        settings = ("seed", "seeds", "seeds_max", "tune", "tune_lrs", "tune_seeds")
        asked = [getattr(config, key) for key in settings]
        yield json.dumps([config.name, config.evaluation_name, asked])
    else:
        for how in config.with_seeds():
            yield "/".join(filter(None, (*how.directory.parts[-2:], how.evaluation_name)))


def run(directory: Path) -> Remembered:
    """Read what the run in a folder trains.

    Raises: FileRefused if no run began there, or its files are damaged; MachineError.
    """
    if read_status(directory) is None:
        why = "is neither a run nor a sweep" if directory.exists() else "is not here"
        fix = "normbench status    (which lists the runs of outputs)"
        raise FileRefused(str(directory), why, fix)
    config = _fitting(directory / CONFIG, stored.stored(directory))
    return Remembered([Cell((), replace(config, tune="none"))])  # its learning rate is chosen


def sweep(folder: Path) -> Remembered:
    """Read what the sweep in a folder trains.

    Raises: FileRefused if its file is damaged, or the data is not as it was; MachineError.
    """
    path = folder / SWEEP
    document = storage.read_json(path, SWEEP_BYTES)
    about = document if isinstance(document, dict) else {}
    command, kept = (about.get(key) for key in ("command", "plan"))
    start, words = _words(command)
    if not start or not isinstance(kept, dict) or not _is_plan(kept):
        fix = "the command of the sweep once more, which writes its folder anew"
        raise FileRefused(str(path), "does not say what the sweep trains", fix)
    outputs = str(folder.parent.parent)
    cells = [_cell(path, each, {**kept["settings"], "outputs": outputs}) for each in kept["cells"]]
    named = identity(cell.config for cell in cells if cell.config)
    if not folder.absolute().name.endswith(f"-{named}"):
        why = f"is not of the sweep {shown(folder.name)}, but of one that ends in {named}"
        raise stored.changed(path, why)
    left_out = [
        Cell(tuple(each["words"]), None, tuple(Mistake(*why) for why in each["why"]))
        for each in kept["left_out"]
    ]
    return Remembered([*cells, *left_out], "-m" in start, words)


def _cell(path: Path, each: Mapping[str, Any], common: Mapping[str, Any]) -> Cell:
    given = {**common, **each["settings"]}
    if why := unlike_setting("settings", given):
        raise storage.damaged(path, why)
    config = _fitting(path, stored.checked(path, given))
    if config.digest != each["data"]:
        why = f"is of data with the digest {shown(each['data'])}, and here it is {config.digest}"
        raise FileRefused(str(path), why, "the data as it was, or data.root=DIR where that lies")
    return Cell(tuple(each["words"]), config, idle=tuple(each["idle"]))


def _fitting(path: Path, config: Config) -> Config:
    """Give a config of this machine, for a command that goes on.

    Raises: FileRefused if its settings contradict each other; MachineError.
    """
    tree = config.plain()
    for mistake in rules.contradictions(tree, data_about(tree)):
        raise stored.changed(path, f"{mistake.subject}: {mistake.why}")
    machine.resolve_device(config.device, config.gpus)
    machine.check_port(config.dist["port"])
    return replace(config, force=False, dry_run=False, allow_changed=False)  # as nobody asks now


def _words(command: object) -> tuple[list[str], tuple[str, ...]]:
    """Split a command into `normbench train`, with `-m` where it is a sweep, and its settings."""
    try:
        words = shlex.split(command) if isinstance(command, str) else []
    except ValueError:
        words = []
    start = words[:3] if words[2:3] == ["-m"] else words[:2]
    known = start[:2] == ["normbench", "train"]
    return (start, tuple(words[len(start) :])) if known else ([], ())


def _is_plan(kept: Mapping[str, Any]) -> bool:
    """Tell whether a plan is as `plan` makes it; its settings are looked at one by one."""
    if not isinstance(kept.get("settings"), dict):
        return False
    cells, left_out = kept.get("cells"), kept.get("left_out")
    if not isinstance(cells, list) or not isinstance(left_out, list) or not cells:
        return False
    if not all(isinstance(each, dict) for each in (*cells, *left_out)):
        return False
    return all(
        isinstance(each.get("settings"), dict)
        and type(each.get("data")) is str
        and _is_texts(each.get("words"))
        and _is_texts(each.get("idle"))
        for each in cells
    ) and all(_is_texts(each.get("words")) and _is_why(each.get("why")) for each in left_out)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(type(text) is str for text in value)


def _is_why(value: object) -> bool:
    return isinstance(value, list) and all(_is_texts(each) and len(each) == 3 for each in value)


def settle(cells: Sequence[Cell], values: Mapping[str, Any]) -> list[Cell]:
    """Give cells with settings of the command that goes on with them."""
    return [replace(cell, config=cell.config and replace(cell.config, **values)) for cell in cells]
