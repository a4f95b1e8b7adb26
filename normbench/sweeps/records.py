"""Reads recorded runs back: one, all of a folder, those of a sweep. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from normbench.errors import FileRefused
from normbench.parts.options import leaves
from normbench.results import export
from normbench.results.groups import Result
from normbench.runs import evaluations
from normbench.runs.evaluations import Evaluation
from normbench.runs.reader import (
    CONFIG,
    CONFIG_BYTES,
    FINAL,
    STATUS,
    is_of_attempt,
    read_config,
    read_status,
)
from normbench.runtime import storage
from normbench.settings.declared import defaults
from normbench.settings.schema import EVALUATION, data_about

FURTHER = "test/accuracy/"  # what the metrics of further tests begin with
SWEEP, RESULTS, SWEEP_BYTES = "sweep.json", "results.csv", 2**26
SEED = re.compile(rb"\n  seed: (\d{1,10})\n")
Known = dict[tuple[bytes, bytes], dict[str, Any]]
SEEDED = re.compile(r"(seed|tune)\d+")
RUN = re.compile(rf"[^/\0]+/{SEEDED.pattern}")  # no way out of the folder of runs


@dataclass(frozen=True)
class StoredSweep:
    """A sweep as its folder tells it.

    Args: results: its cells in the order typed, with all settings, those that were given in the
    words of the command; keys: those that it swept; compare, baseline: as they were asked for;
    tuned: whether it chose learning rates; automatic: whether it chose how many seeds.
    """

    results: list[Result]
    keys: list[str] = field(default_factory=list)
    compare: str | None = None
    baseline: str | None = None
    tuned: bool = False
    automatic: bool = False


def everything(outputs: Path) -> list[Result]:
    """Read all runs below a folder of outputs, sorted by directory.

    Raises: FileRefused if there is no such folder, or a run's files are damaged.
    """
    runs = outputs / "runs"
    if not runs.is_dir():
        fix = "normbench train -m norm=none,bn seeds=6    (or the folder that outputs=DIR named)"
        raise FileRefused(str(runs), "is not a folder of runs", fix)
    folders = sorted(path for path in runs.glob("*/*") if path.name.startswith("seed"))
    return several(folders)


def several(folders: Iterable[Path]) -> list[Result]:
    """Read the runs in several folders.

    Raises: FileRefused if their files are damaged.
    """
    known: Known = {}
    return [result for folder in folders for result in recorded(folder, known)]


def recorded(folder: Path, known: Known | None = None) -> list[Result]:
    """Read what came of the run in a folder, first as it was trained, then as it was judged since.

    Empty if no run began there. The settings are all that make its numbers, as flat dotted keys.

    Args: known: configurations that were read already; seeds of one differ in one line.
    Raises: FileRefused if its files are damaged.
    """
    status = read_status(folder)
    if status is None:
        return []
    experiment = _experiment(folder, {} if known is None else known)
    final = status.get("final") or {}
    unseen = status["state"] == "diverged" and not final.get("chance/test")
    result = Result(
        directory=str(folder),
        settings={**{key: defaults()[key] for key in EVALUATION}, **experiment},
        state=status["state"],
        final=final,
        message=status.get("message"),
        classes=data_about(read_config(folder)["experiment"]).classes if unseen else 10,
        target=experiment["target"],
        length=(experiment["steps"] or 0) * experiment["batch"],
        train_s=status.get("train_s"),
        cpu_s=status.get("cpu_s"),
        shared=bool(status.get("shared")),
        tests=_tests(final),
        steps=status["step"],
        examples=status["step"] * experiment["batch"],
        parameters=status.get("parameters"),
        finished_at=status["finished_at"],
    )
    return [result, *_judged(result, evaluations.all_of(folder, status["state_sha256"]))]


def _judged(own: Result, made: Mapping[str, Evaluation]) -> Iterator[Result]:
    """Give what a run came to in further evaluations, by what names them."""
    for name, each in made.items():
        values = each.over(own.final)
        settings = {**own.settings, **each.asked}
        tests = _tests(values)
        yield replace(own, settings=settings, final=values, tests=tests, evaluation=name)


def _tests(final: Mapping[str, object]) -> list[str]:
    return [key.removeprefix(FURTHER) for key in final if key.startswith(FURTHER)]


def at(place: Path) -> list[Result]:
    """Read the runs at a path: one run, all seeds of a configuration, a sweep, or outputs.

    Raises: FileRefused if it is none of these, or damaged.
    """
    if (place / SWEEP).is_file():
        return sweep(place).results
    if (place / STATUS).is_file():
        return recorded(place)
    if (place / "runs").is_dir():
        return everything(place)
    seeds = sorted(place.glob("seed*/" + STATUS), key=lambda path: _number(path.parent.name))
    if not seeds:
        raise _nothing(place, "normbench compare    (which reads all of outputs/runs)")
    return several(path.parent for path in seeds)


def sweep(folder: Path) -> StoredSweep:
    """Read the runs of a sweep's folder, in the order in which its command named them.

    Raises: FileRefused if the folder or one of its runs is damaged or missing.
    """
    document = _document(folder)
    runs = folder.absolute().parent.parent / "runs"
    found: dict[str, list[Result]] = {}
    known: Known = {}
    results = []
    for cell in document["cells"]:
        name, given = cell["run"], cell["settings"]
        if name is None:
            results.append(Result("", given, cell["state"], message=cell.get("message")))
            continue
        if name not in found:
            found[name] = recorded(runs / name, known)
        judged = [each for each in found[name] if each.evaluation == (cell["evaluation"] or "")]
        if not judged:
            results.append(Result(str(runs / name), given, "planned"))
        results += [replace(result, settings={**result.settings, **given}) for result in judged]
    asked = document.get("compare"), document.get("baseline")
    chose = bool(document.get("tuning")), bool(document.get("seeds_max"))
    return StoredSweep(results, document["keys"], *asked, *chose)


def folders(place: Path) -> list[Path]:
    """List the folders of the runs at a path, those of tuning and those not begun included.

    Args: place: a run, all seeds of a configuration, a sweep, or outputs.
    Raises: FileRefused if it is none of these, or a sweep's file is damaged.
    """
    if (place / SWEEP).is_file():
        document = _document(place)
        names = [run["run"] for run in [*document["cells"], *document.get("tuning", ())]]
        runs = place.absolute().parent.parent / "runs"
        return [runs / name for name in dict.fromkeys(filter(None, names))]
    if (place / "runs").is_dir():
        return sorted(each for each in (place / "runs").glob("*/*") if SEEDED.fullmatch(each.name))
    names = storage.names(place)
    if {STATUS, CONFIG} & {*names} or any(map(is_of_attempt, names)):
        return [place]
    found = sorted(place / name for name in names if SEEDED.fullmatch(name))
    if not found:
        raise _nothing(place, "normbench status    (which lists the runs of outputs)")
    return found


def _nothing(place: Path, fix: str) -> FileRefused:
    why = "is neither a run, a sweep nor a folder of outputs" if place.exists() else "is not here"
    return FileRefused(str(place), why, fix)


def _document(folder: Path) -> dict[str, Any]:
    path = folder / SWEEP
    document = storage.read_json(path, SWEEP_BYTES)
    if why := _unlike_sweep(document):
        fix = "the command of the sweep once more, which writes its folder anew"
        raise FileRefused(str(path), why, fix)
    return dict(document)


def verify(folder: Path) -> list[FileRefused]:
    """List what is wrong with the results that a sweep's folder tells of runs that are whole.

    Runs that have failed or go on may come to something else at any time: they prove nothing.
    """
    path, stored = folder / RESULTS, sweep(folder)
    if not all(result.state in FINAL or not result.directory for result in stored.results):
        return []
    mine = export.csv(stored.results, [*stored.keys, *["optimizer.lr"] * stored.tuned])
    try:
        if storage.read_bytes(path, SWEEP_BYTES) == mine.encode():
            return []
    except FileRefused as error:
        return [error]
    fix = "the command of the sweep once more, which writes its folder anew"
    return [FileRefused(str(path), "is not what its runs tell", fix)]


def _experiment(folder: Path, known: Known) -> dict[str, Any]:
    """Read the settings of a run, flat; those of a further seed of a configuration need no parser.

    Raises: FileRefused if the file is damaged.
    """
    text = storage.read_bytes(folder / CONFIG, CONFIG_BYTES)
    seed = SEED.search(text)
    rest = (text[: seed.start()], text[seed.end() :]) if seed else (text, b"")
    if rest not in known:
        known[rest] = flat(read_config(folder)["experiment"])
    return {**known[rest], "seed": int(seed[1])} if seed else known[rest]


def flat(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """Name the parts by their groups, and everything else by its dotted key."""
    return {key.removesuffix(".name"): value for key, value in leaves(experiment)}


def _unlike_sweep(document: Any) -> str | None:
    """Say what of a sweep's file is not as `folder.write` makes it."""
    if not isinstance(document, dict) or document.get("schema") != 1:
        return "is not a sweep of schema 1"
    keys, cells = document.get("keys"), document.get("cells")
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        return "keys is not a list of settings"
    if not all(type(document.get(key, "")) in (str, type(None)) for key in ("compare", "baseline")):
        return "compare or baseline is no word"
    if not isinstance(cells, list) or not all(map(_is_cell, cells)):
        return "cells are not runs with their settings, as this normbench writes them"
    tuning = document.get("tuning", [])
    if not isinstance(tuning, list) or not all(map(_is_trial, tuning)):
        return "tuning does not name runs, as this normbench writes them"
    return None


def _is_cell(cell: Any) -> bool:
    """Tell whether a cell names a run below `runs`, its settings and its state."""
    if not isinstance(cell, dict) or type(cell.get("state")) is not str:
        return False
    name, given, message = cell.get("run"), cell.get("settings"), cell.get("message")
    texts = isinstance(given, dict) and all(type(value) is str for value in given.values())
    named = name is None or (type(name) is str and bool(RUN.fullmatch(name)))
    plain = all(type(text) in (str, type(None)) for text in (message, cell.get("evaluation", "")))
    return texts and named and plain and "evaluation" in cell


def _is_trial(trial: Any) -> bool:
    """Tell whether an entry names a run of the tuning, below `runs`."""
    name = trial.get("run") if isinstance(trial, dict) else None
    return type(name) is str and bool(RUN.fullmatch(name))


def _number(name: str) -> float:
    digits = name.removeprefix("seed")
    return float(digits) if digits.isdigit() else -1.0
