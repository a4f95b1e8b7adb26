"""What a plan is made of: trainings with the cells that judge them, and tunings of trainings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from normbench.results import lr_search, sequential
from normbench.results.groups import SEEDS, Result
from normbench.results.lr_search import LRSearch
from normbench.runs import evaluations
from normbench.runs.reader import FINAL, read_status
from normbench.settings.cell import Cell
from normbench.settings.fields import AUTO
from normbench.settings.members import is_member
from normbench.settings.schema import EVALUATION, Config

LR = "optimizer.lr"
TUNE_SEED = "tune seed"  # among the settings of a tuning run, beside `optimizer.lr`
Settings = dict[str, str]  # of a cell, as the command line gave them
Fitted = tuple[str, str]


@dataclass
class Item:
    """One training, the cells that judge it, and what is known of it.

    Args: cells: with the settings that the command line gave each, and its config; made: names of
        the evaluations that have been made of the weights; state_sha256: their digest; fix: what
        would mend a run that failed.
    """

    config: Config
    state: str = "planned"
    message: str | None = None
    fix: str = ""
    tries: int = 0
    cells: list[tuple[Settings, Config]] = field(default_factory=list)
    made: set[str] = field(default_factory=set)
    state_sha256: str | None = None
    tight: bool = False  # whether it has failed since memory ran out

    @property
    def settings(self) -> Settings:
        """Give what the command line said of the training."""
        given = self.cells[0][0]
        judging = [key for key in given if key in EVALUATION]
        own = self.config.experiment() if judging else {}
        return {key: text for key, text in given.items() if key not in judging or key in own}

    @property
    def trained(self) -> bool:
        """Tell whether only evaluations can be left to do."""
        return self.state in FINAL

    @property
    def finished(self) -> bool:
        """Tell whether nothing is left to do."""
        return self.trained and not self.missing

    @property
    def missing(self) -> list[Config]:
        """List what is still to be judged: weights that diverged are not."""
        named = {how.evaluation_name: how for _, how in self.cells}
        found = [how for name, how in named.items() if name and name not in self.made]
        return found if self.state != "diverged" else []

    def look(self) -> None:
        """Take over from the run's folder what is finished.

        Raises: FileRefused if its files are damaged.
        """
        status = read_status(self.config.directory)
        if status and status["state"] in FINAL:
            self.state, self.state_sha256 = status["state"], status["state_sha256"]
            for how in self.missing:
                if evaluations.read(how, status["state_sha256"]):
                    self.made.add(how.evaluation_name)

    def result(self, settings: Settings, how: Config, status: Mapping[str, Any]) -> Result:
        """Give what the run came to as one of its cells judges it."""
        state, final = status.get("state", "planned"), status.get("final") or {}
        if how.evaluation and state == "finished":
            made = evaluations.read(how, status["state_sha256"])
            state, final = ("finished", made.over(final)) if made else ("planned", {})
        failed = self.state == "failed" and state not in FINAL
        return Result(
            directory=str(self.config.directory),
            settings=settings,
            state="failed" if failed else state,
            final=final,
            message=self.message or status.get("message"),
            classes=self.config.classes,
            target=self.config.target,
            length=(self.config.steps or 0) * self.config.batch,
            train_s=status.get("train_s"),
            cpu_s=status.get("cpu_s"),
            shared=bool(status.get("shared")),
            tests=how.tests,
            evaluation=how.evaluation_name,
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

    def cell(self, lr: float, k: int) -> tuple[Settings, Config]:
        """Give the settings of tuning seed k at a learning rate, and its config."""
        settings = {key: text for key, text in self.settings.items() if key not in SEEDS}
        return {**settings, LR: f"{lr:g}", TUNE_SEED: str(k)}, self.config.tuning_run(lr, k)

    def search(self, name: str = "") -> LRSearch:
        """Read what the runs came to from their folders."""
        runs = {
            lr: [
                item.result(*self.cell(lr, k), read_status(item.config.directory) or {})
                for k, item in enumerate(self.runs[lr])
            ]
            for lr in sorted(self.runs)
        }
        return LRSearch(name, self.settings, runs, self.choice)


@dataclass
class PlannedCell:
    """One cell of a command, and its runs once they are known: settings to show, and config."""

    cell: Cell
    config: Config
    tuning: Tuning | None = None
    runs: list[tuple[Item, Settings, Config]] | None = None
    count: int = 1  # of its seeds, as far as they are asked for by now
    open: bool = True  # whether `seeds=auto` may ask for more

    def __post_init__(self) -> None:
        auto = self.config.seeds == AUTO
        self.count = sequential.LEAST if auto else self.config.most_seeds

    @property
    def settings(self) -> Settings:
        """Give what the command line gave it."""
        pairs = (text.partition("=") for text in self.cell.row)
        settings = {key: value for key, _, value in pairs}
        for key in [key for key in settings if is_member(key)]:
            group, _, rest = key.partition(".")
            if group in settings:  # one arm of a comparison: `gn(groups=4)`
                option = f"({rest.partition('.')[2]}={settings.pop(key)})"
                settings[group] = f"{settings[group]}{option}".replace(")(", ", ")
        return settings

    @property
    def resolved(self) -> Config | None:
        """Give the config with its learning rate, None while that is to be chosen."""
        if self.tuning is None:
            return self.config
        return self.config.with_lr(self.tuning.choice.lr) if self.tuning.choice else None

    @property
    def fitted(self) -> Fitted:
        """Give what decides whether its parts fit: the training, and the statistics to judge by."""
        return self.config.name, self.config.eval_stats

    @property
    def left(self) -> bool:
        """Tell whether anything of it is still to be trained."""
        if self.runs is None:
            return self.tuning is not None and self.tuning.open
        return any(not item.finished for item, _, _ in self.runs)
