"""What a command has to do: its runs, and which of them are finished. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from normbench.config import Config
from normbench.errors import Refused
from normbench.grid import Cell
from normbench.record import FINAL, read_status


@dataclass
class Item:
    """One run with the settings that the command line gave it, and what is known of it."""

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

    @property
    def seeds_only(self) -> bool:
        """Whether the runs differ in nothing but the seed."""
        return len({item.config.name for item in self.items}) == 1

    def skip(self, item: Item, error: Refused) -> None:
        """Move a run whose parts do not fit to the cells that do not apply."""
        self.items.remove(item)
        row = tuple(f"{key}={value}" for key, value in item.settings.items() if key != "seed")
        if row not in [cell.row for cell in self.skipped]:
            self.skipped.append(Cell(row, None, tuple(error.mistakes)))


def plan(cells: Sequence[Cell]) -> Sweep:
    """Expand seeds and look up which runs are finished.

    Raises: FileRefused if a run's files are damaged.
    """
    known: dict[Path, Item] = {}
    for cell in cells:
        for config in cell.config.with_seeds() if cell.config else []:
            settings = {**dict(text.split("=", 1) for text in cell.row), "seed": str(config.seed)}
            item = known.setdefault(config.directory, Item(config, settings))
            status = None if config.force else read_status(config.directory)
            if status and status["state"] in FINAL:
                item.state = status["state"]
    return Sweep(list(known.values()), [cell for cell in cells if cell.config is None])
