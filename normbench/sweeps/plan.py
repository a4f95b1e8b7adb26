"""Plans a command: its runs, and which of them are finished. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from normbench.errors import Refused
from normbench.results import lr_search
from normbench.results.groups import SEEDS, Result
from normbench.results.lr_search import LRSearch
from normbench.runs.reader import FINAL, read_status
from normbench.settings.compose import Cell
from normbench.settings.schema import Config

LR = "optimizer.lr"
TUNE_SEED = "tune seed"  # among the settings of a tuning run, beside `optimizer.lr`
Settings = dict[str, str]  # of a cell, as the command line gave them


@dataclass
class Item:
    """One run with the settings that the command line gave it, and what is known of it.

    Args: also: the settings of further cells that came to the same run.
    """

    config: Config
    settings: Settings
    state: str = "planned"
    message: str | None = None
    tries: int = 0
    also: list[Settings] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Tell whether nothing is left to do."""
        return self.state in FINAL

    def look(self) -> None:
        """Take over from the run's folder that it is finished.

        Raises: FileRefused if its files are damaged.
        """
        status = read_status(self.config.directory)
        if status and status["state"] in FINAL:
            self.state = status["state"]

    def result(self) -> Result:
        """Read what the run came to from its folder."""
        status = read_status(self.config.directory) or {}
        return Result(
            directory=str(self.config.directory),
            settings=self.settings,
            state="failed" if self.state == "failed" else status.get("state", "planned"),
            final=status.get("final") or {},
            message=self.message or status.get("message"),
            classes=self.config.classes,
            target=self.config.target,
            length=(self.config.steps or 0) * self.config.batch,
            train_s=status.get("train_s"),
            tests=self.config.tests,
            steps=status.get("step", 0),
            examples=status.get("step", 0) * self.config.batch,
            parameters=status.get("parameters"),
            finished_at=status.get("finished_at"),
        )


@dataclass
class Tuning:
    """One configuration whose learning rate is to be chosen, and its runs by learning rate."""

    config: Config
    settings: Settings
    runs: dict[float, list[Item]] = field(default_factory=dict)
    choice: lr_search.Choice | None = None

    @property
    def items(self) -> list[Item]:
        """List the runs, by rising learning rate and seed."""
        return [item for lr in sorted(self.runs) for item in self.runs[lr]]

    @property
    def open(self) -> bool:
        """Tell whether the learning rate is still to be chosen, and can be."""
        return self.choice is None and not any(item.state == "failed" for item in self.items)

    @property
    def steps_left(self) -> int:
        """Count by how many learning rates its grid may still grow."""
        given = self.config.tune_lrs or ()
        return lr_search.EXTENSIONS + len(given) - len(self.runs) if self.open else 0

    def search(self, name: str = "") -> LRSearch:
        """Read what the runs came to from their folders."""
        runs = {lr: [item.result() for item in self.runs[lr]] for lr in sorted(self.runs)}
        return LRSearch(name, self.settings, runs, self.choice)


@dataclass
class PlannedCell:
    """One cell of a command, and its runs once they are known: with the settings to show."""

    cell: Cell
    config: Config
    tuning: Tuning | None = None
    runs: list[tuple[Item, Settings]] | None = None

    @property
    def settings(self) -> Settings:
        """Give what the command line gave it."""
        pairs = (text.partition("=") for text in self.cell.row)
        return {key: value for key, _, value in pairs}

    @property
    def resolved(self) -> Config | None:
        """Give the config with its learning rate, None while that is to be chosen."""
        if self.tuning is None:
            return self.config
        return self.config.with_lr(self.tuning.choice.lr) if self.tuning.choice else None

    @property
    def left(self) -> bool:
        """Tell whether anything of it is still to be trained."""
        if self.runs is None:
            return self.tuning is not None and self.tuning.open
        return any(not item.finished for item, _ in self.runs)


class Sweep:
    """The runs of a command, one per cell and seed, and the cells that do not apply.

    The runs of a cell with `tune=lr` are known once the learning rate of its configuration is
    chosen: until then only its tuning runs are.

    Args: cells: of the command, in its order.
    Raises: FileRefused if a run's files are damaged.
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

    def catch_up(self) -> None:
        """Take over what other processes have trained since the sweep was planned."""
        self._anew = False
        for item in self.todo:
            item.look()
        self.settle()

    def skip(self, errors: Mapping[str, Refused]) -> None:
        """Move the cells whose parts do not fit to those that do not apply.

        Args: errors: by name of the configuration.
        """
        known = {cell.row for cell in self.skipped}
        kept = []
        for planned in self.cells:
            error = errors.get(planned.config.name)
            texts = tuple(text for text in planned.cell.row if not text.startswith("seed="))
            if error is None:
                kept.append(planned)
            elif texts not in known:
                known.add(texts)
                self.skipped.append(Cell(texts, None, tuple(error.mistakes)))
        self.cells = kept
        self._list()

    def _list(self) -> None:
        """List the runs that are known, each once."""
        found: dict[int, Item] = {}
        for planned in self.cells:
            config = planned.resolved if planned.runs is None else None
            if config:
                planned.runs = [self._run(seeded, planned) for seeded in config.with_seeds()]
            for item, settings in planned.runs or ():
                if id(item) not in found:
                    found[id(item)] = item
                    item.settings, item.also = settings, []
                elif settings not in (item.settings, *item.also):
                    item.also.append(settings)
        self.items = list(found.values())

    def _run(self, config: Config, planned: PlannedCell) -> tuple[Item, Settings]:
        settings = {key: text for key, text in planned.settings.items() if key not in SEEDS}
        settings["seed"] = str(config.seed)
        if self._tuned:
            settings[LR] = f"{config.optimizer['lr']:g}"
        return self._item(config, settings), settings

    def _try(self, tuning: Tuning, lr: float) -> None:
        """Add the runs at one more learning rate to a tuning."""
        tuning.runs[lr] = []
        for k in range(tuning.config.tune_seeds):
            settings = {key: text for key, text in tuning.settings.items() if key not in SEEDS}
            settings |= {LR: f"{lr:g}", TUNE_SEED: str(k)}
            tuning.runs[lr].append(self._item(tuning.config.tuning_run(lr, k), settings))

    def _item(self, config: Config, settings: Settings) -> Item:
        """Give the run of a config: the same one each time."""
        directory = config.directory
        if directory not in self._known:
            item = self._known[directory] = Item(config, settings)
            if not (config.force and self._anew):
                item.look()
        return self._known[directory]
