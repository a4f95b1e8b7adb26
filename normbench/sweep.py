"""Many runs: what is finished already, what does not fit, what came of it, and the result table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from normbench.config import data_about
from normbench.errors import Mistake, PartError, Refused
from normbench.record import read_status
from normbench.report import Result

if TYPE_CHECKING:
    from normbench.grid import Cell
    from normbench.pool import Item


def check(sweep: Sweep) -> None:
    """Build the model of every unfinished run without memory, to see whether its parts fit.

    With `skip_invalid` the runs that do not fit move to `skipped`.
    Raises: Refused with all misfits.
    """
    if not sweep.todo:
        return
    from normbench import build
    from normbench.grid import Cell

    seen: dict[str, PartError | None] = {}
    mistakes: dict[Mistake, None] = {}
    for item in sweep.todo:
        name = item.config.name
        if name not in seen:
            about = data_about({"data": item.config.data})
            seen[name] = build.check(item.config, about.shape, about.classes)
        error = seen[name]
        if error is None:
            continue
        if item.config.skip_invalid:
            row = tuple(f"{key}={value}" for key, value in item.settings.items() if key != "seed")
            if row not in [cell.row for cell in sweep.skipped]:
                sweep.skipped.append(Cell(row, None, tuple(error.mistakes)))
            sweep.items.remove(item)
        else:
            mistakes.update(dict.fromkeys(error.mistakes))
    if mistakes:
        raise Refused(*mistakes)

def results(sweep: Sweep) -> list[Result]:
    """Read what every run came to from its folder."""
    found = []
    for item in sweep.items:
        status = read_status(item.config.directory) or {}
        found.append(
            Result(
                directory=str(item.config.directory),
                settings={**item.settings},
                state=item.state if item.state == "failed" else status.get("state", "planned"),
                final=status.get("final") or {},
                message=item.message or status.get("message"),
                classes=_classes(item.config),
            )
        )
    return found


def _classes(config: Config) -> int:
    return data_about({"data": config.data}).classes

