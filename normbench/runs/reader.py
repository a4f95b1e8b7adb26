"""What is read back from the directory of a run: state, configuration, rows.

It is untrusted: size-limited, checked, plain data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from normbench.errors import FileRefused, shown
from normbench.rows import Row, Value, finite, from_json
from normbench.runs import checkpoint
from normbench.runtime import storage
from normbench.runtime.lock import held
from normbench.settings.schema import LAYOUT

CONFIG, ENVIRONMENT, STATUS = "config.yaml", "environment.json", "status.json"
METRICS, TIMING, ERROR = "metrics.jsonl", "timing.jsonl", "error.txt"
CHECKPOINT = checkpoint.NAME
EVENTS, EVALUATION = "events.out.tfevents.", "evaluation-"
# With events and evaluations, what a run that began has left.
ATTEMPT = (CHECKPOINT, "weights.safetensors", METRICS, TIMING, ERROR)

MANY = ("layers", "pretrain")  # rows of numbers for each layer, which are not among the results
FINAL = ("finished", "diverged")
STATES = ("planned", "running", *FINAL, "interrupted", "failed")

CONFIG_BYTES, STATUS_BYTES, METRICS_BYTES = 2**16, 2**20, 2**28  # more is not read back
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # so none that Hydra or OmegaConf give a meaning
_PLAIN = (str, int, float, bool, type(None))


def read_status(directory: Path) -> dict[str, Any] | None:
    """Read a run's state without taking its lock; None if no run began in the folder.

    Raises: FileRefused if the status is malformed, a link, or missing beside other files of a run.
    """
    path = directory / STATUS
    names = storage.names(directory)
    if STATUS not in names:
        if any(map(is_of_attempt, names)):
            raise storage.damaged(path, "is missing")
        return None
    status = storage.read_json(path, STATUS_BYTES)
    why = _unlike_status(status)
    if why:
        raise storage.damaged(path, why)
    return dict(status)


def state(directory: Path, status: Mapping[str, Any] | None) -> str:
    """Name the state of a run: `planned` before it began, `abandoned` where it was killed."""
    if status is None:
        return "planned"
    if status["state"] != "running" or held(directory):
        return str(status["state"])
    later = read_status(directory)  # it may just have ended
    return "abandoned" if later == status else state(directory, later)


def read_config(directory: Path) -> dict[str, dict[str, Any]]:
    """Read the maps `experiment` and `execution` of a run.

    Raises: FileRefused if the file is missing, no plain YAML of these two maps, nested too deep,
        or holds an alias, a tag, an interpolation or a key with a meaning to Hydra.
    """
    path = directory / CONFIG
    tree = storage.read_yaml(path, CONFIG_BYTES)
    if not isinstance(tree, dict) or set(tree) - {"layout"} != {"experiment", "execution"}:
        raise storage.damaged(path, "does not consist of the two maps experiment and execution")
    layout = tree.pop("layout", 1)
    for name, settings in tree.items():
        why = (
            unlike_setting(name, settings) if isinstance(settings, dict) else f"{name} is not a map"
        )
        if why:
            raise storage.damaged(path, why)
    if layout != LAYOUT:
        raise _of_another_layout(path, layout)
    return tree


def digest_of(experiment: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the settings of a run, whatever the order they stand in."""
    return storage.digest(json.dumps(experiment, sort_keys=True).encode())


def last_values(rows: Iterable[Row]) -> dict[str, Value]:
    """Give what a run came to: the last value of each metric, but those of single layers."""
    last: dict[str, Value] = {}
    for row in rows:
        if row.kind not in MANY:
            last |= row.values
    return {name: finite(last[name]) for name in sorted(last) if "/" in name}


def _of_another_layout(path: Path, layout: object) -> FileRefused:
    if layout == 1:
        why = "is of a run of layout 1, whose name counts evaluations; this normbench reads 2"
        fix = "normbench train with its settings, which trains it anew under its name of today"
    else:
        why = f"is of a run of layout {shown(layout)}, this normbench reads {LAYOUT}"
        fix = "the normbench that wrote it, or a newer one"
    return FileRefused(str(path), why, fix)


def read_rows(directory: Path) -> list[Row]:
    """Read the rows of a run; a last line that was cut off is left out.

    Raises: FileRefused if the file is missing or a line is not a row.
    """
    path = directory / METRICS
    rows = []
    for number, line in enumerate(storage.read_bytes(path, METRICS_BYTES).split(b"\n")[:-1], 1):
        try:
            row = from_json(line.decode())
        except ValueError as error:
            raise storage.damaged(path, f"line {number} is not a row: {error}") from None
        if not isinstance(row, Row):
            raise storage.damaged(path, f"line {number} is a row of times")
        rows.append(row)
    return rows


def is_of_attempt(name: str) -> bool:
    """Tell whether a file holds something of an attempt, so that it goes when the run restarts."""
    return name in ATTEMPT or name.startswith((EVENTS, EVALUATION))


_STATUS_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("config_sha256", "started_at", "updated_at"), (str,)),
    **dict.fromkeys(("reason", "message", "state_sha256", "finished_at"), (str, type(None))),
    **dict.fromkeys(("step", "attempts"), (int,)),
    **dict.fromkeys(("steps_total", "exit_code"), (int, type(None))),
    "epoch": (int, float),
    "final": (dict, type(None)),
    **dict.fromkeys(("resumed_at", "warnings"), (list,)),
}

_LATER_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("train_s", "cpu_s"), (int, float, type(None))),
    "parameters": (int, type(None)),
    "shared": (bool, type(None)),
    "metrics_sha256": (str, type(None)),
}  # of what a run has when it is done


def _unlike_status(status: Any) -> str | None:
    """Say what of a status is not as `RunDirectory` writes it."""
    if not isinstance(status, dict):
        return "is not a JSON object"
    if status.get("schema") != 1:
        return f"has schema {shown(status.get('schema'))}, this normbench reads 1"
    if status.get("state") not in STATES:
        return f"has the state {shown(status.get('state'))}, which is none of {', '.join(STATES)}"
    for name, types in _STATUS_TYPES.items():
        if name not in status or type(status[name]) not in types:
            return f"{name} is {shown(status.get(name, 'missing'))}"
    if not all(type(step) is int for step in status["resumed_at"]):
        return "resumed_at is not a list of steps"
    for name in ("warnings", "changed"):
        texts = status.get(name, [])
        if not isinstance(texts, list) or not all(type(text) is str for text in texts):
            return f"{name} is not a list of texts"
    why = _unlike_final(status["final"] or {})
    return why or next(filter(None, (_unlike_later(status, name) for name in _LATER_TYPES)), None)


def _unlike_final(final: Mapping[str, Any]) -> str | None:
    """Say what a run came to that no run comes to."""
    for name, value in final.items():
        if type(value) not in (int, float, type(None)) or finite(value) != value:
            return "final holds more than numbers"
        if name.startswith(("test/accuracy", "val/accuracy")) and not 0 <= (value or 0) <= 1:
            return f"{name} is {shown(value)}, and no share"
    return None


def _unlike_later(status: Any, name: str) -> str | None:
    value = status.get(name)
    fits = type(value) in _LATER_TYPES[name] and finite(value) == value
    return None if fits else f"{name} is {shown(value)}"


def unlike_setting(key: Any, value: Any) -> str | None:
    """Say why a key with its value is not a setting, or not a map of settings."""
    if not isinstance(key, str) or not _KEY.fullmatch(key) or key in ("hydra", "defaults"):
        return f"holds the key {shown(key)}, which is not a setting"
    if isinstance(value, dict):
        return next(filter(None, (unlike_setting(*item) for item in value.items())), None)
    for entry in value if isinstance(value, list) else [value]:
        if type(entry) not in _PLAIN:
            return f"{key} is not a number, word or null"
        if isinstance(entry, str) and "${" in entry:
            return f"{key} holds an interpolation"
    return None
