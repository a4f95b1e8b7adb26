"""What a command has to do: its runs, and which of them are finished. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from normbench.config import Config
from normbench.grid import Cell
from normbench.record import read_status

FINAL = ("finished", "diverged")


@dataclass
class Item:
    """One run of a sweep with its typed settings and what is known of it."""

    config: Config
    settings: dict[str, str]
    state: str = "planned"
    message: str | None = None
    tries: int = 0

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in FINAL


@dataclass
class Sweep:
    """The runs of a command, one per cell and seed, and the cells that do not apply."""

    items: list[Item]
    skipped: list[Cell] = field(default_factory=list)

    @property
    def todo(self) -> list[Item]:
        """The runs that are left."""
        return [item for item in self.items if not item.finished]


def plan(cells: Sequence[Cell]) -> Sweep:
    """Expand seeds and look up which runs are finished; torch is not imported.

    Raises: FileRefused if a run's files are damaged.
    """
    sweep = Sweep([], [cell for cell in cells if cell.config is None])
    known: dict[Path, Item] = {}
    for cell in cells:
        for config in cell.config.with_seeds() if cell.config else []:
            settings = {**dict(text.split("=", 1) for text in cell.row), "seed": str(config.seed)}
            item = known.setdefault(config.directory, Item(config, settings))
            status = read_status(config.directory)
            if status and not config.force:
                item.state = status["state"] if status["state"] in FINAL else "planned"
    sweep.items = list(known.values())
    return sweep
