"""Reads back the learning-rate searches of a sweep from its folder. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normbench.parts.options import written
from normbench.results import groups, lr_search
from normbench.results.groups import Result
from normbench.results.lr_search import LRSearch
from normbench.runs.reader import CONFIG
from normbench.runtime import storage
from normbench.sweeps import records
from normbench.sweeps.items import LR


def searches(folder: Path) -> list[LRSearch]:
    """Read the learning-rate search of each configuration of a sweep, none if it tuned nothing.

    Raises: FileRefused if the file of the sweep, or a run, is damaged.
    """
    path = folder / records.SWEEP
    document = storage.read_json(path, records.SWEEP_BYTES)
    trials = document.get("tuning") or [] if isinstance(document, dict) else None
    if not isinstance(trials, list) or not all(map(_is_trial, trials)):
        raise storage.damaged(path, "tuning does not list runs")
    runs = folder.absolute().parent.parent / "runs"
    found: dict[tuple[tuple[str, str], ...], dict[float, list[Result]]] = {}
    for trial in trials:
        for result in records.recorded(runs / trial["run"]):
            if result.evaluation == (trial.get("evaluation") or ""):
                rest = {key: value for key, value in result.settings.items() if key != LR}
                place = tuple((key, written(rest[key])) for key in rest if key != "seed")
                lr = result.settings.get(LR)
                if not isinstance(lr, int | float):
                    raise storage.damaged(Path(result.directory) / CONFIG, f"{LR} is no number")
                found.setdefault(place, {}).setdefault(lr, []).append(result)
    settings = [dict(place) for place in found]
    swept = document.get("keys")
    known = [key for key in swept if key != LR] if isinstance(swept, list) else []
    keys = groups.swept(settings, known) or groups.swept(settings) or ["model", "norm"]
    names = groups.labels(settings, keys) if settings else []
    return [
        _search(name, cell, lrs)
        for name, cell, lrs in zip(names, settings, found.values(), strict=True)
    ]


def _search(name: str, settings: Mapping[str, str], lrs: Mapping[float, list[Result]]) -> LRSearch:
    """Put the runs of one configuration in order; the choice is made anew if all are done."""
    runs = {lr: sorted(lrs[lr], key=lambda run: -run.seed) for lr in sorted(lrs)}
    search = LRSearch(name, settings, runs)
    done = len(search.points) == len(runs)
    even = len({len(results) for results in runs.values()}) == 1
    choice = lr_search.choose(search.points) if done and even else None
    return LRSearch(name, settings, runs, choice)


def _is_trial(trial: Any) -> bool:
    named = isinstance(trial, dict) and type(trial.get("run")) is str
    return named and bool(records.RUN.fullmatch(trial["run"]))
