"""Gathers what a report of finished runs holds: tables, figures, commands, versions, cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from normbench.errors import counted
from normbench.parts.options import written
from normbench.results import against, compare, lr_search, notes
from normbench.results.curves import Validation
from normbench.results.groups import RESULTS, Result, labels_of
from normbench.results.lr_search import LRSearch
from normbench.results.tables import Table, TableCell
from normbench.runtime import storage
from normbench.sweeps import folder, records, repeat, traces, tuned
from normbench.sweeps.compared import Answer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = {  # the figures that there are
    "convergence": "Validation accuracy over examples seen: mean and range of the seeds that "
    "trained. Dotted: runs that did not train.",
    "batch": "The metric against the batch size: mean and 95 % interval of the seeds that trained. "
    "Hollow: a run of the cell failed; where all did, their mean.",
    "differences": "Differences to the baseline, paired by seed, with 95 % intervals.",
    "lr": "Tuning of the learning rate: mean validation accuracy. Ringed: chosen. Cross: a run "
    "diverged or stayed at chance.",
    "layers": "A quantity of the layers over depth (`diagnose=full`): mean and range of the seeds, "
    "geometric on a logarithmic axis.",
    "failures": "What became of the runs of each cell of which not all trained.",
    "cost": "The metric against the core-seconds of a run, with 95 % intervals, of cells "
    "of which a run trained. Grey: none is better at less cost.",
}
ABOUT = (
    *("model", "data", "init", "optimizer", "optimizer.lr", "lr_rule", "lr_base_batch", "batch"),
    *("steps", "device", "precision", "gpus"),
)
MOST = 8  # values of a setting that are listed


@dataclass(frozen=True)
class Picture:
    """A figure, its name and what it shows."""

    name: str
    caption: str
    figure: Figure

    def _repr_svg_(self) -> str:
        """Show the figure in a notebook."""
        from normbench.display import drawing  # imports matplotlib

        return drawing.encoded(self.figure, "svg").decode()


@dataclass(frozen=True)
class Report:
    """What there is to say of finished runs.

    Args: answer: what compares them; sweeps: the folders of sweeps that were asked about; words:
    the command that reports; differing: says what differs besides the compared key; layers: which
    quantity of them is drawn, and at which step.
    """

    answer: Answer
    sweeps: Sequence[Path]
    words: str
    differing: str = ""
    layers: tuple[str, int] = ("act_std", -1)

    @cached_property
    def results(self) -> list[Result]:
        """List the runs that have begun, those in which parts do not fit left out."""
        found = self.answer.layout.results
        return [run for run in found if run.directory and run.state != "planned"]

    @cached_property
    def spent(self) -> dict[str, float]:
        """Give the core-seconds of the runs that came to an end, by directory."""
        costs = {run.directory: traces.core_seconds(run) for run in self.results}
        return {directory: cost for directory, cost in costs.items() if cost is not None}

    @cached_property
    def searches(self) -> list[LRSearch]:
        """Read the learning-rate searches of the sweeps that are reported."""
        return [search for place in self.sweeps for search in tuned.searches(place)]

    @property
    def sentences(self) -> list[str]:
        """Say of each arm how it stands against the baseline, and what else differs."""
        said = [*against.sentences(self.answer.layout), *notes.stopped(self.answer.automatic)]
        return [*said, self.differing]

    @property
    def tables(self) -> list[Table]:
        """Lay out the comparison, the differences, the tuning."""
        laid = self.answer.layout
        drawn = [compare.table(laid), against.table(laid)]
        tuning = [lr_search.table(self.searches)] if self.searches else []
        return [*(table for table in drawn if table), *tuning]

    def picture(self, name: str) -> Picture | None:
        """Draw one of the figures of `CAPTIONS`, None where the runs have nothing for it."""
        from normbench.display import depth, figures  # imports matplotlib

        laid = self.answer.layout
        draw: Mapping[str, Callable[[], Figure | None]] = {
            "convergence": lambda: figures.convergence(laid, self._curves()),
            "batch": lambda: figures.batches(laid),
            "differences": lambda: figures.differences(laid),
            "lr": lambda: figures.rates(self.searches, laid),
            "layers": lambda: depth.layers(laid, self._profiles(), self.layers[0]),
            "failures": lambda: figures.failures(laid),
            "cost": lambda: figures.cost(laid, self.spent),
        }
        figure = draw[name]()
        said = CAPTIONS[name].replace("The metric", laid.measured.words.capitalize())
        said = said.replace("the baseline", laid.baseline)
        return Picture(name, said, figure) if figure else None

    @cached_property
    def pictures(self) -> list[Picture]:
        """Draw all figures for which the runs have something."""
        return [picture for name in CAPTIONS if (picture := self.picture(name))]

    @cached_property
    def about(self) -> list[tuple[str, str]]:
        """Say what the numbers hang on: command, dates, versions, machine, settings, cost."""
        dates = sorted(run.finished_at[:10] for run in self.results if run.finished_at)
        seconds = [run.train_s for run in self.results if run.train_s]
        facts = [("report", self.words), *(("sweep", command) for command in self._commands())]
        facts += [("trained", " to ".join(dict.fromkeys([*dates[:1], *dates[-1:]])) or "not yet")]
        facts += [("with", _versions(entry)) for entry in folder.versions(self.results)]
        for key in ABOUT:
            values = dict.fromkeys(
                written(run.settings[key]) for run in self.results if key in run.settings
            )
            facts += [(key, _listed([*values]))]
        cost = f"{sum(seconds):,.1f} s of training, {sum(self.spent.values()):,.1f} core-seconds"
        return [*facts, ("cost", f"{counted(len(self.results), 'run')}, {cost}")]

    @cached_property
    def commands(self) -> list[tuple[str, str]]:
        """List the commands that train the runs again, each for all seeds of a configuration."""
        keys = [*self.answer.layout.keys]
        cells: dict[tuple[Path, str], list[Result]] = {}
        for run in self.results:
            cells.setdefault((Path(run.directory).parent, run.evaluation), []).append(run)
        return [
            (
                "  ".join(filter(None, labels_of(runs[0].settings, keys, keys))),
                repeat.command(runs) or "a part of it is not known here",
            )
            for runs in cells.values()
        ]

    @property
    def runs(self) -> Table:
        """List every run: its settings, what became of it, its value, its cost."""
        laid = self.answer.layout
        kind = laid.measured
        rows = []
        for run in self.answer.layout.results:
            end = run.outcome(laid.metric)
            value = run.final.get(laid.metric)
            texts = [written(run.settings.get(key, "")) for key in laid.keys]
            told = [str(run.seed), end.kind if end else run.state]
            told += ["" if value is None else kind.text(value, 2 if kind.percent else 4)]
            told += ["" if run.train_s is None else f"{run.train_s:.2f}"]
            told += [f"{run.examples:,}" if run.state in RESULTS else ""]
            told += [f"{run.parameters:,}" if run.parameters else "", run.name, run.message or ""]
            rows.append(tuple(map(TableCell, [*texts, *told])))
        head = (*laid.keys, "seed", "outcome", kind.title, "seconds", "examples", "parameters")
        return Table("", (*head, "run", "message"), tuple(rows), len(laid.keys))

    def _curves(self) -> dict[str, list[Validation]]:
        """Read the validation curve of each run."""
        return {
            run.directory: traces.validations(Path(run.directory))
            for run in self.results
            if run.state in RESULTS
        }

    def _profiles(self) -> dict[str, list[float]]:
        """Read what is drawn of the layers of each run."""
        folders = [run.directory for run in self.results if run.state in RESULTS]
        return {folder: traces.profile(Path(folder), *self.layers) for folder in folders}

    def _commands(self) -> Iterable[str]:
        """Give the commands of the sweeps that are reported, as they were typed."""
        for place in self.sweeps:
            document = storage.read_json(place / records.SWEEP, records.SWEEP_BYTES)
            if type(command := document.get("command")) is str:
                yield command


def _versions(entry: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in entry.items() if value is not None)


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values[:MOST]) + ", …" * (len(values) > MOST)
