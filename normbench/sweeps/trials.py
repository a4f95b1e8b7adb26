"""The trials of a sweeper that chooses its cells itself, such as Optuna's. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from normbench.errors import NormbenchError
from normbench.results.tables import Table, TableCell
from normbench.settings.cell import Cell
from normbench.settings.compose import Grid
from normbench.settings.overrides import key_of
from normbench.sweeps.plan import Sweep

if TYPE_CHECKING:
    from normbench.display.screen import Screen

Rows = Sequence[Sequence[str]]  # overrides, one row for each trial


@dataclass
class Trials:
    """The trials so far: the cell of each, and the value that it gave the sweeper.

    Args: grid: composes and checks a trial. direction: `maximize` or `minimize`. searched: the keys
    of the lists from which the sweeper chooses.
    """

    grid: Grid
    direction: str
    searched: Collection[str]
    cells: list[Cell] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)

    def run(
        self, rows: Rows, train: Callable[[list[Cell]], None], warn: Callable[[str], None]
    ) -> list[float | None]:
        """Train a batch of trials together and return the value of each, None without one."""
        cells: list[Cell | None] = []
        for row in rows:
            try:
                cell = self.grid.trial(row)
                assert cell.config is not None
                # What does not fit is left out, and fails no other trial of the batch.
                cells.append(replace(cell, config=replace(cell.config, skip_invalid=True)))
            except NormbenchError as error:  # parts that do not fit: the sweeper looks elsewhere
                warn(error.mistakes[0].text)
                cells.append(None)
        made = [cell for cell in cells if cell]
        if made:
            train(made)
        values = [value(cell) if cell else None for cell in cells]
        self.cells += made
        self.values += [found for cell, found in zip(cells, values, strict=True) if cell]
        return values

    def conclude(self, screen: Screen) -> Sweep:
        """Show what came of the trials, and return their runs: none of parts that do not fit."""
        made = [how for cell in self.cells if cell.config for how in cell.config.with_seeds()]
        sweep = Sweep([Cell((), how) for how in made if how.directory.exists()])
        if self.cells:  # those that another launcher has run are not known here
            screen.document({"command": "train", **self.document()})
            screen.table(self.table())
            screen.command(f"tensorboard --logdir {shlex.quote(str(made[0].outputs) + '/runs')}")
        return sweep

    def table(self) -> Table:
        """List the trials by what was searched, and mark the best."""
        best = self.best
        assert self.cells[0].config is not None
        lines = [
            (
                TableCell(str(number)),
                TableCell(" ".join(text for text in cell.row if key_of(text) in self.searched)),
                TableCell("-" if found is None else f"{found:.6g}"),
                TableCell("best" if best and best[0] is cell else ""),
            )
            for number, (cell, found) in enumerate(zip(self.cells, self.values, strict=True), 1)
        ]
        head = ("trial", "settings", self.cells[0].config.optimize, "")
        return Table("", head, tuple(lines), right=frozenset({2}))

    def document(self) -> dict[str, Any]:
        """Give the trials for JSON."""
        trials = [
            {"settings": list(cell.row), "value": found}
            for cell, found in zip(self.cells, self.values, strict=True)
        ]
        best = self.best
        return {"trials": trials, "best": trials[self.cells.index(best[0])] if best else None}

    @property
    def best(self) -> tuple[Cell, float] | None:
        """Give the best trial and its value, None while none has one."""
        sign = 1 if self.direction == "maximize" else -1
        known = [
            (cell, found)
            for cell, found in zip(self.cells, self.values, strict=True)
            if found is not None
        ]
        return max(known, key=lambda each: sign * each[1], default=None)


def value(cell: Cell) -> float | None:
    """Return the mean of `optimize` over the seeds of a cell, None if a run of it has none."""
    assert cell.config is not None
    name = cell.config.optimize
    results = Sweep([cell]).results()
    found = [each.train_s if name == "train_s" else each.final.get(name) for each in results]
    known = [number for number in found if number is not None]
    return fmean(known) if len(known) == len(found) else None


def searched(cells: Sequence[Cell]) -> set[str]:
    """Find the keys in which the cells of a command line, one or more for each value, differ."""
    rows = [cell.row for cell in cells]
    common = set(rows[0]).intersection(*rows)
    return {key_of(text) for row in rows for text in row if text not in common}


def direction(optimize: str) -> str:
    """Say whether a quantity is better when it is larger or smaller."""
    return "maximize" if optimize.endswith("accuracy") else "minimize"
