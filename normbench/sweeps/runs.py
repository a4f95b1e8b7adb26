"""The runs of a sweep or folder as Python holds them: tables, curves, figures. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from normbench.errors import MachineError, Mistake, Refused
from normbench.results import against, compare, groups
from normbench.results.groups import RESULTS, Result
from normbench.results.tables import Table
from normbench.sweeps import compared, traces
from normbench.sweeps.compared import Question
from normbench.sweeps.records import StoredSweep
from normbench.sweeps.reported import CAPTIONS, Picture, Report


class Runs(list[Result]):
    """A list of results that can be compared as `normbench compare` does.

    Args: results: of runs; keys: the settings that were swept, by default those that vary; folder:
    of the sweep, which has the learning rates that it tried.
    """

    def __init__(
        self, results: Sequence[Result], keys: Sequence[str] = (), folder: Path | None = None
    ) -> None:
        super().__init__(results)
        self.swept, self.folder = [*keys], folder
        self.keys = self.swept or groups.swept([result.settings for result in self])

    def table(self, metric: str = "test/accuracy", **asked: Any) -> Table:
        """Lay out a metric, with intervals, failures and a star.

        Args: metric: by its tag or short name; asked: `by`, `baseline`, `target`, as of the options
            of `normbench compare`.
        Raises: Refused if there is nothing to compare, or no run has the metric.
        """
        return compare.table(self._report(metric, asked).answer.layout)

    def differences(self, metric: str = "test/accuracy", **asked: Any) -> Table | None:
        """Lay out the paired differences to a baseline, None where no arm can be held against it.

        Args, Raises: as of `table`.
        """
        return against.table(self._report(metric, asked).answer.layout)

    def plot(
        self, figure: str = "convergence", metric: str = "test/accuracy", **asked: Any
    ) -> Picture:
        """Draw one of the figures of `normbench plot`; `.figure` is matplotlib's.

        Args: figure: convergence, batch, differences, lr (of a sweep with tune=lr), failures or
            cost; metric, asked: as of `table`.
        Raises: Refused as `table`, or if there is no such figure or nothing to draw in it.
        """
        drawn = self._report(metric, asked).picture(figure) if figure in CAPTIONS else None
        if drawn is None:
            why = f"nothing to draw; figures are {', '.join(CAPTIONS)}"
            raise Refused(Mistake(figure, why, 'plot("convergence")'))
        return drawn

    def curves(self) -> list[dict[str, object]]:
        """Read the validation curves: one row per validation of a run that came to an end.

        Returns: `run`, the settings that vary, `seed`, `examples` and `seconds` of training, and
            `val/accuracy`, a fraction.
        Raises: FileRefused if the rows of a run are damaged.
        """
        return [
            {
                **self._place(result),
                "examples": at.examples,
                "seconds": at.seconds,
                "val/accuracy": at.accuracy,
            }
            for result in self
            if result.state in RESULTS
            for at in traces.validations(Path(result.directory))
        ]

    def to_pandas(self) -> Any:
        """Give a DataFrame, one line per run: what varies, how it ended, its cost, its last values.

        Raises: MachineError if pandas is not installed.
        """
        try:
            import pandas  # optional, and slow to import
        except ImportError:
            raise MachineError("pandas", "is not installed", "pip install pandas") from None
        return pandas.DataFrame([self._line(result) for result in self])

    def _repr_html_(self) -> str:
        """Show the table in a notebook, the runs alone where nothing can be compared."""
        try:
            return self.table()._repr_html_()
        except Refused:
            alone = compared.Answer(compare.layout(self, self.keys))
            return Report(alone, [], "").runs._repr_html_()

    def _report(self, metric: str, asked: dict[str, Any]) -> Report:
        question = Question(Path("outputs"), metric=metric, **asked)
        answer = compared.of(StoredSweep([*self], self.swept), question)
        return Report(answer, [self.folder] if self.folder else [], "")

    def _place(self, result: Result) -> dict[str, object]:
        settings = {key: result.settings.get(key) for key in self.keys}
        return {"run": result.name, **settings, "seed": result.seed}

    def _line(self, result: Result) -> dict[str, object]:
        end = result.outcome()
        return {
            **self._place(result),
            "state": result.state,
            "outcome": end.kind if end else None,
            "steps": result.steps,
            "examples": result.examples,
            "seconds": result.train_s,
            "parameters": result.parameters,
            **result.final,
            "message": result.message,
        }
