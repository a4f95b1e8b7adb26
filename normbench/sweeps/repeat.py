"""Says how finished runs are made again: the words of a command, from what they recorded."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from normbench.parts import registry
from normbench.parts.options import leaves, quoted, written
from normbench.results.groups import PARTS, SEEDS, Result
from normbench.runs.reader import read_config
from normbench.settings.declared import GROUPS, default_parts, defaults
from normbench.settings.fields import default_part

TEXTS = ("data.root", "data.path", "data.label")  # taken as they stand
BUDGET = ("epochs", "examples")  # steps say the same, and two budgets are refused
OF_SWEEPS = ("skip_invalid", "max_cells", "jobs", "lanes", "compare", "baseline", "outputs")
TUNED = ("tune", "tune_lrs", "tune_seeds")  # what they chose stands in optimizer.lr


def command(results: Sequence[Result]) -> str | None:
    """Write the command that trains some runs again, which differ in their seeds alone.

    It names what differs from the defaults, and where a folder of images lies.

    Returns: None where a part of theirs is not known here.
    Raises: FileRefused if the settings of a run are damaged.
    """
    first = results[0]
    recorded = read_config(Path(first.directory))
    places = recorded["execution"].get("data") or {}
    given = {**first.settings, **{f"data.{key}": place for key, place in places.items()}}
    if not all(_known(group, given.get(group)) for group in GROUPS):
        return None
    seeds = [result.seed for result in results]
    count = max(seeds) - min(seeds) + 1
    words = [*_words(given)]
    words += [f"seed={min(seeds)}"] * (min(seeds) != 0) + [f"seeds={count}"] * (count > 1)
    return shlex.join(["normbench", "train", *words])


def _known(group: str, name: object) -> bool:
    names = registry.names(group)
    return isinstance(name, str) and all(each in names for each in name.split("+"))


def _words(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings that differ from what a command has without them, the parts first."""
    usual = {**defaults(), **default_parts(), **dict.fromkeys(TEXTS)}
    for group in GROUPS:
        options = leaves(default_part(group, str(given[group])))
        usual |= {f"{group}.{key}": value for key, value in options if key != "name"}
    brings = registry.facts("norm", str(given["norm"])).constants["brings"]
    usual["activation"] = brings or "relu"
    for key in [*PARTS, *(key for key in given if key not in PARTS)]:
        value = given[key]
        if key not in usual or key in (*SEEDS, *BUDGET, *OF_SWEEPS, *TUNED):
            continue
        if written(value) != written(usual[key]):
            yield quoted(key, value) if key in TEXTS else f"{key}={written(value)}"
