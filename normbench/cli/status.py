"""`normbench status`: the states of runs, of which it changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normbench.cli.parser import Parser, add_place, place, screen
from normbench.errors import FileRefused

EXAMPLES = (
    "normbench status                               all runs of outputs",
    "normbench status outputs/sweeps/norm-1a2b3c4d  those of a sweep",
    "normbench status outputs/runs/NAME/seed0       one of them",
)
TOLD = ("step", "steps_total", "attempts", "reason", "message", "state_sha256", "updated_at")


def parser() -> Parser:
    """Return the parser of the command's words."""
    made = Parser("status", "Tell the state of runs; changes nothing.", EXAMPLES)
    add_place(made)
    return made


def run(words: list[str]) -> int:
    """Print the state of every run at a path; of a killed one it is `abandoned`.

    Returns: 0, or 3 if files of a run are damaged.
    Raises: FileRefused if there are no runs at the path.
    """
    options = parser().parsed(words)
    shown = screen(options)
    from normbench.results.tables import Table, TableCell
    from normbench.sweeps import records

    found, errors = [], []
    for folder in records.folders(place(options)):
        try:
            found.append(_told(folder))
        except FileRefused as error:
            errors.append(error)
            found.append({"dir": str(folder), "state": "damaged"})
    counts = Counter(each["state"] for each in found)
    rows = tuple(tuple(map(TableCell, _cells(each))) for each in found)
    head = ("run", "state", "step", "attempts", "updated", "message")
    shown.document({"command": "status", "counts": counts, "runs": found})
    shown.table(Table("", head, rows, right=frozenset({2, 3})))
    shown.text(", ".join(f"{count} {state}" for state, count in counts.items()) or "no runs")
    if errors:
        errors[0].mistakes = [mistake for each in errors for mistake in each.mistakes]
        shown.error(errors[0])
    return FileRefused.code if errors else 0


def _told(folder: Path) -> dict[str, Any]:
    from normbench.runs.reader import read_status, state

    status = read_status(folder)
    name = state(folder, status)
    if name != "abandoned":
        status = read_status(folder)  # as it was when its state was looked at, or later
    return {"dir": str(folder), "state": name, **{key: (status or {}).get(key) for key in TOLD}}


def _cells(told: Mapping[str, Any]) -> list[str]:
    step = "" if told.get("step") is None else f"{told['step']:,}"
    if told.get("steps_total"):
        step += f"/{told['steps_total']:,}"
    name = "/".join(Path(told["dir"]).parts[-2:])
    rest = [str(told.get(key) or "") for key in ("attempts", "updated_at", "message")]
    return [name, told["state"], step, *rest]
