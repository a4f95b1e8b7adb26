"""Plans a command: its runs, and which of them are finished. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from normbench.errors import FileRefused, Refused, pasted
from normbench.results import lr_search
from normbench.results.groups import SEEDS, Result
from normbench.runs.reader import read_status
from normbench.settings.cell import Cell
from normbench.settings.schema import DIGITS, Config
from normbench.sweeps import rounds
from normbench.sweeps.items import LR, Fitted, Item, PlannedCell, Settings, Tuning


class Sweep:
    """The runs of a command, one per cell and seed, and the cells that do not apply.

    The runs of a cell with `tune=lr` are known once the learning rate of its configuration is
    chosen: until then only its tuning runs are.

    Args: cells: of the command, in its order.
    Raises: FileRefused if a run's files are damaged, or it lies here under a former name.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.skipped = [cell for cell in cells if cell.config is None]
        self.cells = [PlannedCell(cell, cell.config) for cell in cells if cell.config]
        self.items: list[Item] = []
        self._known: dict[Path, Item] = {}
        self._anew = True  # with force=true, what is finished is to be trained again
        tunings: dict[object, Tuning] = {}
        for planned in self.cells:
            if planned.config.tune == "lr":  # one choice holds for all seeds of a configuration
                key = (
                    planned.config.name,
                    planned.config.eval_stats,  # it chooses by the accuracy under these
                    tuple(planned.config.tune_lrs or ()),
                    planned.config.tune_seeds,
                )
                planned.tuning = tunings.setdefault(key, Tuning(planned.config, planned.settings))
        self._tuned = bool(tunings)
        for tuning in tunings.values():
            for lr in tuning.config.tune_lrs or ():
                self._try(tuning, lr)
        self.settle()

    @property
    def tunings(self) -> list[Tuning]:
        """List the configurations whose learning rate is chosen by tuning."""
        found = {id(planned.tuning): planned.tuning for planned in self.cells if planned.tuning}
        return list(found.values())

    @property
    def tuning_items(self) -> list[Item]:
        """List all tuning runs; configurations may share some."""
        items = [item for tuning in self.tunings for item in tuning.items]
        return list({id(item): item for item in items}.values())

    @property
    def todo(self) -> list[Item]:
        """List the runs that are left, as far as they are known."""
        return [item for item in [*self.tuning_items, *self.items] if not item.finished]

    @property
    def outputs(self) -> Path:
        """Give the folder of runs and sweeps."""
        return Path(self.cells[0].config.outputs)

    @property
    def seeds_only(self) -> bool:
        """Tell whether the runs differ in nothing but the seed."""
        return len({item.config.name for item in self.items}) == 1

    def settle(self) -> None:
        """Choose the learning rates whose grids are trained, and list the runs known by now."""
        for tuning in self.tunings:
            while tuning.open and all(item.finished for item in tuning.items):
                points = tuning.search().points
                lr = lr_search.extension(points, tuning.config.tune_lrs or ())
                if lr is None:
                    tuning.choice = lr_search.choose(points)
                else:
                    self._try(tuning, lr)
        self._list()
        while rounds.automatic(self.cells) and self._grow():
            self._list()

    def _grow(self) -> bool:
        """Ask for the next seeds of the pairs that are open."""
        left_out = [dict(text.split("=", 1) for text in cell.row) for cell in self.skipped]
        return rounds.grow(self.cells, self.results(), left_out)

    def catch_up(self) -> None:
        """Take over what other processes have trained since the sweep was planned."""
        self._anew = False
        for item in self.todo:
            item.look()
        self.settle()

    def skip(self, errors: Mapping[Fitted, Refused]) -> None:
        """Move the cells whose parts do not fit to those that do not apply.

        Args: errors: by what decides whether they fit.
        """
        known = {cell.row for cell in self.skipped}
        kept = []
        for planned in self.cells:
            error = errors.get(planned.fitted)
            texts = tuple(text for text in planned.cell.row if not text.startswith("seed="))
            if error is None:
                kept.append(planned)
            elif texts not in known:
                known.add(texts)
                self.skipped.append(Cell(texts, None, tuple(error.mistakes)))
        self.cells = kept
        self._list()

    def results(self) -> list[Result]:
        """Read what the runs that are known came to, for each cell in the order typed."""
        read = {id(item): read_status(item.config.directory) or {} for item in self.items}
        found = [
            item.result(settings, how, read[id(item)])
            for planned in self.cells
            for item, settings, how in planned.runs or ()
        ]
        once = {(each.directory, each.evaluation, *each.settings.items()): each for each in found}
        return list(once.values())

    def _list(self) -> None:
        """List the runs that are known, each once, with the cells that come to it."""
        found: dict[int, Item] = {}
        for planned in self.cells:
            config = planned.resolved if planned.runs is None else None
            if config:
                planned.runs = [
                    self._run(seeded, planned) for seeded in config.with_seeds(planned.count)
                ]
            for item, settings, how in planned.runs or ():
                if id(item) not in found:
                    found[id(item)], item.cells = item, []
                if (settings, how.evaluation) not in [(s, c.evaluation) for s, c in item.cells]:
                    item.cells.append((settings, how))
        self.items = list(found.values())
        for item in self.items:
            if item.trained and item.missing:
                item.look()

    def _run(self, config: Config, planned: PlannedCell) -> tuple[Item, Settings, Config]:
        settings = {key: text for key, text in planned.settings.items() if key not in SEEDS}
        settings["seed"] = str(config.seed)
        if self._tuned:
            settings[LR] = f"{config.optimizer['lr']:g}"
        return self._item(config), settings, config

    def _try(self, tuning: Tuning, lr: float) -> None:
        """Add the runs at one more learning rate to a tuning."""
        tuning.runs[lr] = []
        for k in range(tuning.config.tune_seeds):
            settings, how = tuning.cell(lr, k)
            item = self._item(how)
            item.cells.append((settings, how))
            if item.trained and item.missing:
                item.look()
            tuning.runs[lr].append(item)

    def _item(self, config: Config) -> Item:
        """Give the run of a config: the same one each time."""
        directory = config.directory
        if directory not in self._known:
            item = self._known[directory] = Item(config.training)
            if not (config.force and self._anew):
                item.look()
            if not directory.exists():
                self._refuse_former(config)
        return self._known[directory]

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """Find the folders of runs by the digits in which their names end."""
        return {path.name[-DIGITS:]: path for path in (self.outputs / "runs").glob("*")}

    def _refuse_former(self, config: Config) -> None:
        """See that a run does not lie here under a name of before, which told fewer options.

        Raises: FileRefused: it would be trained twice. A name says nothing that a run needs, so
            that it may be given the new one.
        """
        former = self._folders.get(config.sha256[:DIGITS])
        fewer = former and {*former.name.split("-")} < {*config.name.split("-")}
        if former and fewer and (former / config.directory.name).exists():
            why = f"holds a run that an earlier normbench named so; today it is {config.name}"
            new = config.directory.parent
            fix = f"mv {pasted(former)} {pasted(new)}"
            if new.exists():
                fix = f"mv {pasted(former)}/* {pasted(new)}"
            raise FileRefused(str(former), why, fix)
