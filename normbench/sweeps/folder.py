"""Writes the folder of a sweep: what was asked, what came of each run, the tables. No torch."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.parts.options import written
from normbench.results import export, lr_search, tables
from normbench.results.groups import Result
from normbench.results.layout import place
from normbench.results.lr_search import LRSearch
from normbench.results.tables import Table
from normbench.runs.reader import ENVIRONMENT, STATUS_BYTES
from normbench.runtime import machine, storage
from normbench.settings.fields import AUTO
from normbench.settings.schema import Config
from normbench.sweeps import remembered
from normbench.sweeps.items import LR
from normbench.sweeps.plan import Sweep
from normbench.sweeps.records import RESULTS, SWEEP

VERSIONS = ("normbench", "python", "torch", "system", "device_name", "threads")


@dataclass(frozen=True)
class Outcome:
    """What came of a sweep.

    Args: cells: in the order typed, also those without a run; results: the runs, each once; tuned:
    the tuning before them; keys: those that are swept.
    """

    cells: Sequence[Result]
    results: Sequence[Result]
    tuned: Sequence[LRSearch]
    keys: Sequence[str]


def begin(sweep: Sweep, outcome: Outcome, command: str, since: str) -> Path:
    """Write `sweep.json` before the runs start: what is asked, with what, and since when."""
    about = _about(sweep, outcome, command)
    first = sweep.cells[0].config
    here = machine.environment(first.device, first.threads)
    started = {
        "state": "running",
        "started_at": since,
        "versions": about["versions"] or [{key: here.get(key) for key in VERSIONS}],
    }
    return _write_about(sweep, outcome, {**about, **started})


def write(
    sweep: Sweep, outcome: Outcome, command: str, shown: Sequence[Table], state: str = "ended"
) -> Path:
    """Write `sweep.json`, `results.csv` and `table.md`, with `tune=lr` also `tune.csv`.

    The same command finds the folder again, in whatever order its words come.

    Args: command: as it was typed; shown: the tables; state: of the sweep, `ended` or `stopped`.
    """
    about = _about(sweep, outcome, command)
    folder = _write_about(sweep, outcome, {**about, "state": state})
    keys = sorted(outcome.keys, key=place)
    columns = [*outcome.keys, *[LR] * bool(outcome.tuned)]
    storage.write_atomic(folder / RESULTS, export.csv(outcome.cells, columns))
    if outcome.tuned:
        storage.write_atomic(folder / "tune.csv", lr_search.csv(outcome.tuned, keys))
    head = "\n".join([f"# {folder.name}", "", f"    {command}", "", *_head(about), "", ""])
    storage.write_atomic(folder / "table.md", head + "\n".join(map(tables.markdown, shown)))
    return folder


def place_of(sweep: Sweep, keys: Sequence[str]) -> Path:
    """Return the folder of a sweep, which its cells name, whatever comes of them."""
    short = remembered.identity(planned.config for planned in sweep.cells)
    usual = "tune" if sweep.tunings else "seed"
    return sweep.outputs / "sweeps" / f"{'-'.join(sorted(keys, key=place)) or usual}-{short}"


def _write_about(sweep: Sweep, outcome: Outcome, about: dict[str, Any]) -> Path:
    """Write `sweep.json` into the folder of a sweep, which is returned."""
    trials = [run for search in outcome.tuned for run in itertools.chain(*search.runs.values())]
    folder = place_of(sweep, outcome.keys)
    storage.make_directory(folder)
    document = {
        "schema": 1,
        **about,
        "cells": [*map(_cell, outcome.cells)],
        "tuning": [
            {"run": trial.name, "evaluation": trial.evaluation or None, "state": trial.state}
            for trial in trials
        ],
    }
    storage.write_atomic(folder / SWEEP, json.dumps(document, indent=1) + "\n")
    return folder


def _cell(result: Result) -> dict[str, object]:
    return {
        "run": result.name if result.directory else None,
        "evaluation": result.evaluation or None,
        "settings": dict(result.settings),
        "state": result.state,
        **({"message": result.message} if not result.directory else {}),
    }


def _about(sweep: Sweep, outcome: Outcome, command: str) -> dict[str, Any]:
    """Say what the numbers of a sweep hang on: its words, versions, data, models, budget, rates."""
    configs = [item.config for item in sweep.items] or [cell.config for cell in sweep.cells]
    first, first_cell = configs[0], sweep.cells[0].config
    dates = sorted(result.finished_at for result in outcome.results if result.finished_at)
    return {
        "command": command,
        "trained": [dates[0], dates[-1]] if dates else None,
        "versions": versions(outcome.results),
        "data": _once(_data(config) for config in configs),
        "model": _once(config.model["name"] for config in configs),
        "device": _once(f"{config.device} {config.precision}" for config in configs),
        "budget": _once(
            {"steps": config.steps, "examples": (config.steps or 0) * config.batch}
            for config in configs
        ),
        "learning_rate": {
            "rule": first.lr_rule,
            "base_batch": first.lr_base_batch,
            "tuned": bool(outcome.tuned),
            "values": _once(config.lr for config in configs),
        },
        "keys": list(outcome.keys),
        "compare": first.compare,
        "baseline": None if first.baseline is None else written(first.baseline),
        "seeds_max": first_cell.seeds_max if first_cell.seeds == AUTO else None,
        "plan": remembered.plan(sweep),
    }


def _data(config: Config) -> dict[str, Any]:
    sizes = dict(zip(("train", "val", "test"), config.sizes, strict=True))
    return {"name": config.label, "sha256": config.digest, **sizes}


def versions(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Read with what the runs were trained, each combination once."""
    found = []
    for result in results:
        path = Path(result.directory) / ENVIRONMENT
        if path.is_file():
            entries = storage.read_json(path, STATUS_BYTES)
            last = entries[-1] if isinstance(entries, list) and entries else {}
            if isinstance(last, dict):
                found.append({key: last.get(key) for key in VERSIONS})
    return _once(found)


def _head(about: dict[str, Any]) -> list[str]:
    """Say the same in the lines above a table."""
    steps = _span(entry["steps"] for entry in about["budget"])
    examples = _span(entry["examples"] for entry in about["budget"])
    data = "; ".join("{name} {train}/{val}/{test}".format(**entry) for entry in about["data"])
    rates = about["learning_rate"]
    ratio = f" x f(batch / {rates['base_batch']})" if rates["rule"] != "none" else ""
    rule = f"optimizer.lr{ratio}, lr_rule={rates['rule']}" + ", chosen by tune=lr" * rates["tuned"]
    trained = [day[:10] for day in about["trained"] or ()]
    versions = [
        "normbench {normbench}, python {python}, torch {torch}, {system}, {device_name}, "
        "{threads} threads".format(**entry)
        for entry in about["versions"]
    ]
    lines = [
        f"trained {' to '.join(dict.fromkeys(trained)) or 'not yet'}; {', '.join(about['device'])}",
        *versions,
        f"model {', '.join(about['model'])}; data {data} (training, validation, test images)",
        f"budget: {steps} steps, {examples} examples",
        f"learning rate {_span(rates['values'])} ({rule})",
    ]
    return [f"- {tables.plain(line)}" for line in lines]


def _span(numbers: Iterable[float | None]) -> str:
    known = sorted({number for number in numbers if number is not None})
    texts = [f"{number:,}" if isinstance(number, int) else f"{number:g}" for number in known]
    return " to ".join([*dict.fromkeys((texts[0], texts[-1]))]) if known else "-"


def _once(values: Iterable[Any]) -> list[Any]:
    """Give each value once, in the order in which they come."""
    return [*{json.dumps(value, sort_keys=True): value for value in values}.values()]
