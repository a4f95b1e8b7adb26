"""Plans evaluations of runs that are finished: what is asked, of which weights. No torch."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from normbench.errors import FileRefused, Refused
from normbench.results.groups import Result
from normbench.runs import stored, weights
from normbench.runs.reader import read_status
from normbench.settings import compose, inputs, schema
from normbench.settings.schema import EVALUATION, Config
from normbench.sweeps import records
from normbench.sweeps.items import Item

BESIDE = ("data", "device", "jobs", "download")  # what else can be said of an evaluation


@dataclass(frozen=True)
class Asked:
    """One way of judging: the settings that were given, with their values; data, if it was."""

    values: dict[str, Any]
    data: dict[str, Any] | None

    def of(self, config: Config) -> Config:
        """Give the config that judges a run so.

        Raises: Refused if that cannot be; FileRefused if the images are not like the run's.
        """
        values = {key: copy.copy(self.values[key]) for key in EVALUATION if key in self.values}
        how = replace(config, jobs=self.values["jobs"], force=False, **values)
        how = replace(how, download=self.values["download"], judging_device=self.values["device"])
        mistakes = inputs.mistakes(how.plain(), _about(json.dumps(how.data)))
        if mistakes:
            off = f"{mistakes[0].subject.partition('=')[0]}=[]"  # for the model is what it is
            raise Refused(
                *(replace(each, fix=off) if "model=" in each.fix else each for each in mistakes)
            )
        return how if self.data is None else _on_other_data(how, self.data)


def asked(words: Sequence[str]) -> list[Asked]:
    """Read what is asked, in every combination of lists, off the words of a command.

    Raises: Refused with all mistakes.
    """
    grid = compose.Grid(compose.loader())
    grid.read.given(words)
    choices = []
    for word in words:
        key = word.partition("=")[0]
        if key.partition(".")[0] in (*EVALUATION, *BESIDE) and key != "data.train_size":
            choices.append(grid.read.read(word, multirun=True))
        elif grid.read.read(word, multirun=True):
            why = "was settled when the runs were trained"
            grid.read.say(word, why, f"normbench train {word}    (which is another run)")
    keys = [word.partition("=")[0] for word in words]
    for word in words:
        if word.startswith("data.") and "data" not in keys:
            grid.read.say(word, "says nothing of the data that is meant", f"data=NAME {word}")
    trees = [grid.checked(row) for row in itertools.product(*filter(None, choices))]
    grid.read.stop()
    return [
        Asked(
            {
                "jobs": tree["jobs"],
                "download": tree["download"],
                "device": tree["device"] if "device" in keys else None,
                **{key: tree[key] for key in keys if key in EVALUATION},
            },
            tree["data"] if "data" in keys else None,
        )
        for tree in trees
    ]


def items(places: Sequence[Path], ways: Sequence[Asked]) -> list[Item]:
    """Plan how the runs at some places are judged.

    Raises: FileRefused if a run is damaged, not finished or has no weights, or if the images that
        it is to be judged by are unlike its own; Refused.
    """
    read = [result.directory for place in places for result in records.at(place)]
    found = [Path(directory) for directory in dict.fromkeys(read) if directory]
    planned = []
    for directory in found:
        config = replace(stored.finished(directory), jobs="auto")
        item = Item(config.training)
        item.look()
        for way in ways:
            how = way.of(config)
            item.cells.append((_settings(how), how))
        item.look()
        if item.missing:
            weights.check(config.directory, item.state_sha256)
        planned.append(item)
    return planned


def results(planned: Sequence[Item]) -> list[Result]:
    """Read what came of all evaluations."""
    return [
        item.result(settings, how, read_status(item.config.directory) or {})
        for item in planned
        for settings, how in item.cells
    ]


def _settings(how: Config) -> dict[str, Any]:
    judged = {key: getattr(how, key) for key in EVALUATION}
    other = {"data": how.other.label} if how.other else {}
    return {**records.flat(how.experiment()), **judged, **other}


def _on_other_data(how: Config, data: dict[str, Any]) -> Config:
    other = _about(json.dumps(data))
    if other.digest == how.digest:
        return how
    mine, theirs = (
        f"{'x'.join(map(str, shape))} in {classes} classes"
        for shape, classes in ((how.shape, how.classes), (other.shape, other.classes))
    )
    if mine != theirs:
        why = f"has images of {theirs}, and {how.directory} was trained on {mine}"
        raise FileRefused(f"data={other.label}", why, f"data={how.data['name']}")
    return replace(how, other=other, other_data=data)


@cache
def _about(data: str) -> Any:
    return schema.data_about({"data": json.loads(data)})
