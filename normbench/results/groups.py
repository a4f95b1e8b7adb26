"""Recorded runs, and the groups of them that make the cells of a table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from normbench.errors import shown
from normbench.parts.options import written
from normbench.results import metrics, stats
from normbench.results.metrics import Metric
from normbench.results.pairs import Arm

Settings = Mapping[str, object]  # flat dotted keys: `norm`, `norm.groups`, `batch`, `seed`
Key = tuple[str, ...]  # the values of some keys, as written on a command line

PARTS = ("model", "norm", "init", "data", "optimizer")  # their values say what they are
SEEDS = ("seed", "seeds")
RESULTS = ("finished", "diverged")  # states of a run that has a result
STATES = ("failed", "interrupted", "running", "planned", "does not apply", *reversed(RESULTS))


@dataclass(frozen=True)
class Result:
    """One run as recorded: its settings, how it ended, and the last value of each metric.

    Args: directory: of the run, `.../<name>/seed<k>`; state: as in `status.json`, or `does not
    apply`; final: by metric, None where it was not finite; classes: of the data set; target: the
    validation accuracy that ends the run; length: its examples, if nothing does; train_s: seconds
    of training; cpu_s: CPU seconds of a worker, None where they were not recorded; shared: both are
    shares of what runs in one process took; tests: names of the tests beside that of the test set
    as it is; evaluation: what names it among those of the run, empty for that of its training;
    steps, examples: those it took; parameters: of its model that are trained; finished_at: date and
    time in UTC; waited: lower bounds of times to a target, by metric, where it was not reached.
    """

    directory: str
    settings: Settings
    state: str
    final: Mapping[str, float | None] = field(default_factory=dict)
    message: str | None = None
    classes: int = 10
    target: float | None = None
    length: int = 0
    train_s: float | None = None
    cpu_s: float | None = None
    shared: bool = False
    tests: Sequence[str] = ()
    evaluation: str = ""
    steps: int = 0
    examples: int = 0
    parameters: int | None = None
    finished_at: str | None = None
    waited: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Give the last two parts of the directory, which are the same under any root."""
        return "/".join(PurePath(self.directory).parts[-2:])

    @property
    def seed(self) -> int:
        """Give the seed by which runs are paired."""
        return int(str(self.settings.get("seed", 0)))

    def chance(self, part: str = "test") -> float:
        """Give the accuracy of guessing on `val` or `test`: the share of its largest class.

        A run that ended before it had seen the images has that of equally many of each class.
        """
        return self.final.get(f"chance/{part}") or 1 / self.classes

    def outcome(self, metric: str = "test/accuracy") -> stats.Outcome | None:
        """Say what came of the run: trained, stuck or diverged, by the set that is judged.

        It has diverged for an accuracy, too, whose loss is not finite: weights may be judged on
        images, or by statistics, that their training has not seen.

        Returns: its value of the metric, chance level where it has none that is finite; None
        where the run has no result.
        """
        diverged = self.state == "diverged"
        known = metric in self.final or metric in self.waited
        if not diverged and (self.state not in RESULTS or not known):
            return None
        kind, late = metrics.of(metric), metric in self.waited
        value = self.waited[metric] if late else self.final.get(metric)
        accuracy = self.final.get(f"{kind.part}/accuracy", 1.0)  # not judged if it was not taken
        sound = self.final.get(metric.replace("accuracy", "loss", 1), 0.0) is not None
        finite = sound and value is not None and math.isfinite(value)
        found = stats.outcome(accuracy, self.chance(kind.part), diverged or not finite)
        if value is None or found.kind == "diverged":
            value = self.guessed(kind)
        return replace(found, value=value, late=late and not found.failed)

    def guessed(self, metric: Metric) -> float:
        """Give the accuracy of guessing, or its loss, the entropy of the shares of the classes.

        Returns: 0 for a gap; nan for what guessing has no value of, such as a time.
        """
        if metric.larger is None:
            return 0.0
        if metric.quantity not in ("accuracy", "auc", "loss"):
            return math.nan
        if metric.percent:
            return self.chance(metric.part)
        loss = self.final.get(f"chance/{metric.part}_loss")
        return math.log(self.classes) if loss is None else loss


class Twice(ValueError):
    """Two different runs of one cell have the same seed."""

    def __init__(self, first: Result, second: Result) -> None:
        super().__init__(f"two runs of one cell have seed {second.seed}: {second.name}")
        self.first, self.second = first, second


class Group:
    """The runs of one cell of a table, in the order of their seeds, and what they say together.

    `mean` and `interval` are over the runs that trained; where none did, `mean` is over all, of a
    gap over those that have one.

    Raises: Twice if two different runs have the same seed: one is a copy, or a key is missing.
    """

    def __init__(self, results: Iterable[Result], metric: str, as_chance: bool = False) -> None:
        self.metric = metrics.of(metric)
        self.results: list[Result] = []
        self.outcomes: dict[int, stats.Outcome] = {}
        for result in sorted(results, key=lambda result: result.seed):
            if result in self.results:
                continue  # listed by two sweeps
            if self.results and self.results[-1].seed == result.seed:
                raise Twice(self.results[-1], result)
            self.results.append(result)
            outcome = result.outcome(metric)
            if outcome is not None:
                self.outcomes[result.seed] = outcome
        self.n = len(self.outcomes)
        self.failed = sum(end.failed for end in self.outcomes.values())
        counted = {
            result.seed: self._counted(result, as_chance)
            for result in self.results
            if result.seed in self.outcomes
        }
        kept = {seed: value for seed, value in counted.items() if value is not None}
        late = frozenset(seed for seed, end in self.outcomes.items() if end.late)
        self.arm = Arm(kept, 0 if as_chance else self.failed, self.n, late)
        self.values = [
            end.value
            for end in self.outcomes.values()
            # guessing has no gap that was measured
            if not (
                math.isnan(end.value) or (self.metric.larger is None and end.kind == "diverged")
            )
        ]
        values = [*kept.values()] or self.values
        self.mean = stats.mean(values) if values else None
        within = self.metric.within
        self.interval = None if late else stats.interval([*kept.values()], within=within)
        states = [result.state for result in self.results]
        self.state = min(states, key=_urgency, default="missing")

    def _counted(self, result: Result, as_chance: bool) -> float | None:
        """Give the value with which a run counts in the mean, None where it is told apart."""
        end = self.outcomes[result.seed]
        if not end.failed:
            return end.value
        value = result.guessed(self.metric)
        return value if as_chance and not math.isnan(value) else None


def swept(cells: Iterable[Settings], among: Sequence[str] | None = None) -> list[str]:
    """List the keys that vary over the cells of a sweep, without the seed.

    Args: cells: the settings of each; among: the keys to look at, in the order wanted, such as
    those of the command line. By default all keys, in order of appearance.
    """
    values: dict[str, set[str]] = {}
    for cell in cells:
        for key, value in cell.items():
            values.setdefault(key, set()).add(written(value))
    order = values if among is None else dict.fromkeys(among)
    return [key for key in order if len(values.get(key, ())) > 1 and key not in SEEDS]


def values_of(settings: Settings, keys: Sequence[str]) -> Key:
    """Give the values of some keys as written, empty where a cell does not have one."""
    return tuple(written(settings[key]) if key in settings else "" for key in keys)


def label(key: str, value: object, keys: Sequence[str] = ()) -> str:
    """Say a setting in a table: `bn` for a part, `batch 2` or `groups 8` for the others.

    Args: keys: all that are shown; where two share their last component it is not enough.
    """
    text = shown(written(value)).removesuffix(".0")
    if key in PARTS:
        return text
    last = key.rpartition(".")[2]
    shared = sum(other.rpartition(".")[2] == last for other in keys) > 1
    return f"{key if shared else last} {text}"


def labels_of(settings: Settings, keys: Sequence[str], among: Sequence[str]) -> Key:
    """Say some keys of one cell, empty where it does not have one."""
    return tuple(label(key, settings[key], among) if key in settings else "" for key in keys)


def labels(cells: Sequence[Settings], keys: Sequence[str]) -> list[str]:
    """Say each cell of a sweep in one line, their settings below each other: `bn  batch 32`."""
    rows = [labels_of(cell, keys, keys) for cell in cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def further_tests(results: Sequence[Result]) -> list[str]:
    """List the accuracies of further tests, such as `test/accuracy/invert`, by name and number."""
    names = {name for result in results for name in result.tests}
    return [f"test/accuracy/{name}" for name in sorted(names, key=_in_order)]


def _urgency(state: str) -> int:
    return STATES.index(state) if state in STATES else 0


def _in_order(name: str) -> list[float | str]:
    """Give the key by which names are sorted, the numbers in them by their size."""
    pieces = re.split(r"(\d+\.?\d*)", name)
    return [float(piece) if place % 2 else piece for place, piece in enumerate(pieces)]
