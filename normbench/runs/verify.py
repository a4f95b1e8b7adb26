"""Checks every file and digest of a run; changes nothing, imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from normbench.errors import FileRefused
from normbench.rows import TimeRow, from_json
from normbench.runs import evaluations, kept, weights
from normbench.runs.reader import (
    CHECKPOINT,
    CONFIG,
    ENVIRONMENT,
    FINAL,
    METRICS,
    METRICS_BYTES,
    STATUS_BYTES,
    TIMING,
    digest_of,
    last_values,
    read_config,
    read_rows,
    read_status,
)
from normbench.runtime import storage

Check = Callable[[Path, Mapping[str, Any]], None]


def verify(directory: Path) -> Iterator[FileRefused]:
    """Yield what is wrong with the files of a run, one error each; nothing of one not begun.

    Of a run that is not finished the last line of a growing file may be cut off.
    """
    try:
        status = read_status(directory)
    except FileRefused as error:
        yield error
        return
    if status is None:
        return
    for check in (_config, _environment, _metrics, _timing, _weights, _checkpoint, _evaluations):
        try:
            check(directory, status)
        except FileRefused as error:
            yield error


def _config(directory: Path, status: Mapping[str, Any]) -> None:
    mine, told = digest_of(read_config(directory)["experiment"]), status["config_sha256"]
    if mine != told:
        why = f"has been changed: its settings have the digest {mine}, the status says {told}"
        raise storage.damaged(directory / CONFIG, why)


def _environment(directory: Path, _: Mapping[str, Any]) -> None:
    entries = storage.read_json(directory / ENVIRONMENT, STATUS_BYTES)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise storage.damaged(directory / ENVIRONMENT, "is not a list of starts")


def _none_yet(path: Path, status: Mapping[str, Any]) -> bool:
    """Tell whether a run was killed before it made its first file of rows: it will start over."""
    begun = (path.parent / CHECKPOINT).exists()
    return not (path.exists() or begun or status["state"] in FINAL)


def _metrics(directory: Path, status: Mapping[str, Any]) -> None:
    if _none_yet(directory / METRICS, status):
        return
    rows = read_rows(directory)
    if status["state"] not in FINAL:
        return
    path, told = directory / METRICS, status.get("metrics_sha256")
    if told and (mine := storage.digest(path)) != told:
        raise storage.damaged(path, f"has been changed: its digest is {mine}, not {told}")
    if last_values(rows) != status["final"]:
        raise storage.damaged(path, "does not end with the results that the status tells")


def _timing(directory: Path, status: Mapping[str, Any]) -> None:
    path = directory / TIMING
    if _none_yet(path, status):
        return
    *lines, rest = storage.read_bytes(path, METRICS_BYTES).split(b"\n")
    if rest and status["state"] in FINAL:
        raise storage.damaged(path, "ends within a line")
    for number, line in enumerate(lines, 1):
        try:
            timed = isinstance(from_json(line.decode()), TimeRow)
        except ValueError:
            timed = False
        if not timed:
            raise storage.damaged(path, f"line {number} is not a row of times")


def _weights(directory: Path, status: Mapping[str, Any]) -> None:
    if status["state"] not in FINAL:
        return
    there = weights.path(directory).exists()
    if there or read_config(directory)["execution"].get("keep") != "none":
        weights.check(directory, status["state_sha256"])


def _checkpoint(directory: Path, status: Mapping[str, Any]) -> None:
    if (directory / CHECKPOINT).exists():
        run = f"{directory.parent.name}/{directory.name}"
        kept.check(directory, {"run": run, "config_sha256": status["config_sha256"]})


def _evaluations(directory: Path, status: Mapping[str, Any]) -> None:
    evaluations.all_of(directory, status["state_sha256"])
    evaluations.right(directory, "")
