"""Plans the runs of a study on those of `normbench train`, and finds what came of them. No torch.

A study trains nothing of its own: its arms are cells of a sweep, its learning rates are chosen by
`tune=lr`, so its runs lie with all others and are trained once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

from normbench.parts import registry
from normbench.parts.options import quoted, written
from normbench.results.groups import Result
from normbench.results.lr_search import Choice, LRSearch
from normbench.results.sequential import LEAST, looks
from normbench.runs.reader import read_rows, read_status
from normbench.settings.cell import Cell
from normbench.settings.compose import Grid
from normbench.settings.schema import Config
from normbench.studies import form
from normbench.studies.study import FIRST_SEED, LR, Arm, Study, seconds, seconds_of
from normbench.sweeps.items import Item
from normbench.sweeps.plan import Sweep

RECOMPUTED = ("eval_stats=dataset",)
PLAIN: tuple[str, ...] = ()
Place = tuple[str, str]  # role of the learning rate, name of the arm


class Plan:
    """The runs of a study at one size and stage.

    Args: study: what is to be judged; grid: composes cells, kept for several studies; outputs: the
    folder of runs; words: further words of each cell, such as `jobs=2`.
    Raises: Refused with what is wrong with the settings of an arm; FileRefused if a run is damaged.
    """

    def __init__(
        self, study: Study, grid: Grid, outputs: str = "outputs", words: Sequence[str] = ()
    ) -> None:
        self.study, self.grid = study, grid
        self.common = [quoted("outputs", outputs), *words]
        self._cells: dict[tuple[str, ...], Cell] = {}
        self._read: dict[int, list[Result]] = {}  # by the id of a cell
        self.looks = [LEAST] if study.automatic else [study.seeds]
        self.tuning = Sweep(self._tuning_cells()) if "tuned" in study.roles else None
        self.settle()

    def settle(self) -> None:
        """Take over the learning rates that are chosen by now, and list the runs at them."""
        if self.tuning:
            self.tuning.settle()
        self.places: dict[tuple[Place, tuple[str, ...]], Cell] = {
            ((role, arm.name), how): cell
            for role in self.study.roles
            for arm in self.study.arms
            if (lr := self.rate(role, arm)) is not None
            for how in self._judged(arm)
            for cell in [self._cell(arm, self._rated(role, lr), [*how, *self._seeds()])]
        }
        self.sweep = Sweep(list({id(cell): cell for cell in self.places.values()}.values()))
        for item in self.sweep.items if self._curves else ():
            if item.state == "finished" and _lacks_validations(item.config):
                item.config, item.state = replace(item.config, force=True), "planned"

    @property
    def seeds(self) -> int:
        """Count the seeds of each arm that are asked for by now."""
        return self.looks[-1]

    def grow(self) -> bool:
        """Ask for the seeds of the next look; tell whether there are any."""
        following = [n for n in looks(self.study.seeds) if n > self.seeds]
        self.looks += following[:1]
        self.settle()
        return bool(following)

    @cached_property
    def searches(self) -> dict[str, LRSearch]:
        """Give the search of the learning rate of each arm that has one of its own."""
        if not self.tuning:
            return {}
        arms = dict.fromkeys(self.study.reference(arm).name for arm in self.study.arms)
        by_cell = {id(planned.cell): planned.tuning for planned in self.tuning.cells}
        found = {name: by_cell[id(self._tuned[name])] for name in arms}
        return {name: tuning.search(name) for name, tuning in found.items() if tuning}

    def choice(self, arm: Arm) -> Choice | None:
        """Give the tuned learning rate of an arm, None while it is open."""
        if not self.tuning:
            return None
        cell = self._tuned[self.study.reference(arm).name]
        planned = next(each for each in self.tuning.cells if each.cell is cell)
        return planned.tuning.choice if planned.tuning else None

    def rate(self, role: str, arm: Arm) -> float | None:
        """Give the learning rate of an arm in a role, None while it is open."""
        if role == "shared":
            shared = self.study.lr["shared"]
            if not isinstance(shared, dict):
                return float(shared)
            return next(float(shared[level]) for level in arm.levels.values() if level in shared)
        if role == "tuned":
            choice = self.choice(arm)
            return choice.lr if choice else None
        return float(arm.settings.get(LR, 0.0))

    @property
    def runs(self) -> int:
        """Count all trainings, those whose learning rates are open at their number."""
        return len(self._items) + self.seeds * len(self._open)

    @property
    def left(self) -> int:
        """Count the trainings that are still to be done."""
        left = sum(not item.finished for item in self._items)
        return left + self.seeds * len(self._open)

    @property
    def seconds(self) -> float:
        """Estimate the core-seconds of what is left, by figures of a step of each model."""
        total = sum(
            seconds_of(str(item.config.model["name"]), item.config.steps or 0)
            for item in self._items
            if not item.finished
        )
        return total + self.seeds * sum(map(seconds, self._open))

    @property
    def fixes(self) -> set[str]:
        """Give what would mend the runs that failed."""
        return {item.fix for item in self._items if item.state == "failed"}

    @property
    def _items(self) -> list[Item]:
        return [*self.sweep.items, *(self.tuning.tuning_items if self.tuning else ())]

    @property
    def _open(self) -> list[Arm]:
        """List the arms whose tuned learning rate is not chosen yet."""
        tuned = "tuned" in self.study.roles
        return [arm for arm in self.study.arms if tuned and self.rate("tuned", arm) is None]

    def done(self) -> int:
        """Count the seeds of which every arm has a result."""
        if self._open:
            return 0
        finished = [
            sum(item.finished for item, _, _ in planned.runs or ()) for planned in self.sweep.cells
        ]
        return min(finished, default=0)

    def results(self, role: str, arm: Arm, how: tuple[str, ...] = PLAIN) -> list[Result]:
        """Read what the runs of an arm came to, as one way of judging sees it."""
        cell = self.places.get(((role, arm.name), how))
        if cell is None:
            return []
        if id(cell) in self._read:
            return self._read[id(cell)]
        (planned,) = (each for each in self.sweep.cells if each.cell is cell)
        found = []
        for item, settings, config in planned.runs or ():
            result = item.result(settings, config, read_status(item.config.directory) or {})
            known = {**config.experiment(), "eval_steps": config.eval_steps, **settings}
            found.append(replace(result, settings=known))
        if all(item.finished for item, _, _ in planned.runs or ()):  # they change no more
            self._read[id(cell)] = found
        return found

    def _tuning_cells(self) -> list[Cell]:
        arms = {arm.name: arm for arm in map(self.study.reference, self.study.arms)}
        grid, seeds = self.study.lr["grid"], self.study.tree["seeds"]["tune"]
        words = ["tune=lr", f"tune_lrs={written(list(grid))}", f"tune_seeds={seeds}"]
        self._tuned = {arm.name: self._cell(arm, words, self._seeds()) for arm in arms.values()}
        return list(self._tuned.values())

    def _judged(self, arm: Arm) -> Iterator[tuple[str, ...]]:
        """Yield the ways in which an arm is judged, beside that of its training."""
        yield PLAIN
        norm = str(arm.settings.get("norm", "bn"))
        metrics = {each.metric for each in self.study.hypotheses}
        running = registry.facts("norm", norm).constants.get("running")
        if running and any("recomputed" in metric for metric in metrics):
            yield RECOMPUTED

    @property
    def _curves(self) -> bool:
        """Tell whether a metric is read off validation curves."""
        metrics = [each.metric for each in self.study.hypotheses]
        return any(name in metric for metric in metrics for name in form.CURVES)

    def _validated(self, arm: Arm) -> list[str]:
        """Say when runs are validated: quick ones whose curves nobody reads at their end only.

        Ten validations of 5,000 images take longer than the steps between them.
        """
        steps, said = arm.settings.get("steps"), {"eval_every", "eval_every_steps"}
        if self.study.size != "quick" or self._curves or not steps or said & arm.settings.keys():
            return []
        return [f"eval_every_steps={steps}"]

    def _rated(self, role: str, lr: float) -> list[str]:
        return [] if role == "fixed" else [f"{LR}={lr:g}"]

    def _seeds(self) -> list[str]:
        return [f"seed={FIRST_SEED[self.study.stage]}", f"seeds={self.seeds}"]

    def _cell(self, arm: Arm, rated: Sequence[str], further: Sequence[str]) -> Cell:
        own = [word for word in arm.words if not (rated and word.startswith(f"{LR}="))]
        metrics = {form.calls(each.metric)[0] for each in self.study.hypotheses}
        asked = ["train_acc=true"] if {"train_acc", "gen_gap"} & metrics else []
        asked += ["probe=true"] * any("probe(" in each.metric for each in self.study.hypotheses)
        asked = [] if any(word in RECOMPUTED for word in further) else asked
        asked += self._validated(arm)
        words = tuple([*own, *rated, *asked, *further, *self.common])
        if words not in self._cells:
            (self._cells[words],) = self.grid.cells(words, multirun=False)
        return self._cells[words]


def _lacks_validations(config: Config) -> bool:
    """Tell whether a finished run has fewer validations than asked for, as another command did."""
    found = {row.step for row in read_rows(config.directory) if row.kind == "val"}
    return not {*range(0, max(found, default=0) + 1, config.eval_steps)} <= found
