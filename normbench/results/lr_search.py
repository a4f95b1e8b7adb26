"""Chooses the learning rate of a configuration from a grid, and shows the whole grid."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from normbench.results import stats
from normbench.results.groups import RESULTS, SEEDS, Result, Settings
from normbench.results.tables import Table, TableCell, csv_text

METRIC = "val/accuracy"
EXTENSIONS = 3  # learning rates by which a grid may grow
COARSE = 1.5  # ratio of a grid from which its new values are rounded to two digits
EDGE, UNSTABLE = "lr at grid edge", "unstable at every lr"
RULE = "* chosen: the smallest lr within one standard error of the best"
MARKS = {
    "c": "c: a run ended within 5 points of chance",
    "d": "d: a run diverged, which counts as chance",
}


@dataclass(frozen=True)
class Point:
    """One learning rate, and the final validation accuracy of each tuning seed at it.

    Args: lr: of `optimizer.lr`; outcomes: one per seed, at chance where the run diverged.
    """

    lr: float
    outcomes: tuple[stats.Outcome, ...]

    @property
    def values(self) -> list[float]:
        """List the accuracies, by tuning seed."""
        return [outcome.value for outcome in self.outcomes]

    @property
    def score(self) -> float:
        """Give the mean accuracy over the tuning seeds."""
        return stats.mean(self.values)

    @property
    def eligible(self) -> bool:
        """Tell whether no run diverged or ended within 5 points of chance."""
        return not self.mark

    @property
    def mark(self) -> str:
        """Say why it is not eligible, as a key of `MARKS`."""
        kinds = {outcome.kind for outcome in self.outcomes}
        return "d" if "diverged" in kinds else "c" if "stuck" in kinds else ""

    def as_good_as(self, top: Point) -> bool:
        """Tell whether it is behind another by at most one standard error of the difference.

        mean(d) <= s / sqrt(n), with d the n differences paired by tuning seed and s their standard
        deviation of divisor n - 1; by nothing where one seed tells no spread.
        """
        d = [best - value for best, value in zip(top.values, self.values, strict=True)]
        error = statistics.stdev(d) / math.sqrt(len(d)) if len(d) > 1 else 0.0
        return stats.mean(d) <= error + stats.TIE


@dataclass(frozen=True)
class Choice:
    """The learning rate that is taken, and what is to be said of it."""

    lr: float
    notes: tuple[str, ...] = ()


def best(points: Sequence[Point]) -> Point:
    """Give the point of the highest score among the eligible, among all if none is.

    Of equal scores the smallest learning rate counts.

    Args: points: by rising learning rate.
    """
    among = [point for point in points if point.eligible] or list(points)
    return max(among, key=lambda point: point.score)


def choose(points: Sequence[Point]) -> Choice:
    """Take the smallest eligible learning rate that is as good as the best.

    The best-looking one is often the one just below those that diverge, and as good is what the
    tuning seeds cannot tell from it (`Point.as_good_as`). If none is eligible, the one with the
    best mean is taken, with a note; there is a note too if the best or the chosen is at an end.

    Args: points: by rising learning rate.
    """
    chosen, ends = _chosen(points), (points[0], points[-1])
    notes = [] if chosen.eligible else [UNSTABLE]
    if chosen in ends or best(points) in ends:
        notes.append(EDGE)
    return Choice(chosen.lr, tuple(notes))


def extension(points: Sequence[Point], given: Sequence[float]) -> float | None:
    """Give the next learning rate beyond the end at which the best or the chosen one is.

    It is one step of the mean ratio of the given grid away. The grid is done, and the answer None,
    when both are inside, as the best is once a run beyond it has diverged, or after three steps.

    Args: points: all so far, by rising learning rate; given: the grid that was asked for.
    """
    ends = points[0], points[-1]
    end = next((point for point in (best(points), _chosen(points)) if point in ends), None)
    if end is None or len(points) >= len(given) + EXTENSIONS:
        return None
    ratio = (given[-1] / given[0]) ** (1 / (len(given) - 1))
    value = end.lr / ratio if end is points[0] else end.lr * ratio
    return float(f"{value:.2g}" if ratio >= COARSE else f"{value:.6g}")


def _chosen(points: Sequence[Point]) -> Point:
    top = best(points)
    good = (point for point in points if point.eligible and point.as_good_as(top))
    return next(good, top)


@dataclass(frozen=True)
class LRSearch:
    """All tuning runs of a configuration.

    Args: name: of the configuration in a table; settings: those of the command line; runs: by
    rising learning rate, one per tuning seed; choice: None while a run is missing.
    """

    name: str
    settings: Settings
    runs: Mapping[float, Sequence[Result]]
    choice: Choice | None = None

    @property
    def points(self) -> list[Point]:
        """List the learning rates whose runs are all done."""
        return [
            Point(lr, tuple(map(_outcome, results)))
            for lr, results in self.runs.items()
            if all(result.state in RESULTS for result in results)
        ]

    @property
    def failures(self) -> list[str]:
        """Say what went wrong, one line per failed run."""
        return [
            f"lr {lr:g}, tune seed {k}: {result.message or 'no message'}"
            for lr, results in self.runs.items()
            for k, result in enumerate(results)
            if result.state == "failed"
        ]


def table(searches: Sequence[LRSearch]) -> Table:
    """Lay out the mean validation accuracy: a row per configuration, a column per learning rate."""
    lrs = sorted({lr for search in searches for lr in search.runs})
    rows = []
    for search in searches:
        points = {point.lr: point for point in search.points}
        cells = [_cell(search, lr, points.get(lr)) for lr in lrs]
        rows.append((TableCell(search.name), *cells))
    head = ("", *(f"{lr:g}" for lr in lrs))
    return Table("val % by lr", head, tuple(rows), notes=tuple(_notes(searches)))


def csv(searches: Sequence[LRSearch], keys: Sequence[str]) -> str:
    """Write one line per tuning run, with plain numbers and what came of its learning rate."""
    head = ["run", *keys, "optimizer.lr", "tune_seed", "state", METRIC]
    lines = []
    for search in searches:
        eligible = {point.lr: point.eligible for point in search.points}
        settings = [search.settings.get(key, "") for key in keys]
        for lr, results in search.runs.items():
            chosen = search.choice is not None and search.choice.lr == lr
            for k, result in enumerate(results):
                run = [result.name, *settings, lr, k, result.state, result.final.get(METRIC)]
                lines.append([*run, eligible.get(lr), chosen, result.message])
    lines.sort(key=lambda line: (str(line[0]), list(map(str, line))))
    return csv_text([[*head, "eligible", "chosen", "message"], *lines])


def document(search: LRSearch) -> dict[str, object]:
    """Give the grid of a configuration as a plain document, accuracies as fractions."""
    points = {point.lr: point for point in search.points}
    return {
        "config": {key: text for key, text in search.settings.items() if key not in SEEDS},
        "lr": search.choice.lr if search.choice else None,
        "notes": list(search.choice.notes) if search.choice else search.failures,
        "grid": [
            {
                "lr": lr,
                "mean": points[lr].score if lr in points else None,
                "eligible": points[lr].eligible if lr in points else None,
                "seeds": [_run(k, result) for k, result in enumerate(results)],
            }
            for lr, results in search.runs.items()
        ],
    }


def _outcome(result: Result) -> stats.Outcome:
    return result.outcome(METRIC) or stats.outcome(None, result.chance("val"))


def _run(k: int, result: Result) -> dict[str, object]:
    return {
        "seed": k,
        "dir": result.directory,
        "state": result.state,
        METRIC: result.final.get(METRIC),
        "message": result.message,
    }


def _cell(search: LRSearch, lr: float, point: Point | None) -> TableCell:
    if point is None:
        states = [result.state for result in search.runs.get(lr, ())]
        if "failed" in states:
            return TableCell("failed", "failed")
        return TableCell("missing" if states else "", "faint")
    mark = point.mark
    style = {"d": "diverged", "c": "faint"}.get(mark, "")
    if search.choice and search.choice.lr == lr:
        mark, style = f"{mark}*", style or "best"
    return TableCell(f"{100 * point.score:5.2f} {mark}".rstrip(), style)


def _notes(searches: Sequence[LRSearch]) -> list[str]:
    points = [point for search in searches for point in search.points]
    counts = sorted({len(point.outcomes) for point in points})
    marks = [mark for mark in MARKS if mark in {point.mark for point in points}]
    among = f" among those without {' or '.join(marks)}" if marks else ""
    notes = [RULE + among] if any(search.choice for search in searches) else []
    notes += [MARKS[mark] for mark in marks]
    if counts:
        span = " or ".join(map(str, counts))
        seeds = f"{span} tuning seed{'s' * (counts != [1])}"
        notes.append(f"mean of {seeds}; lr is optimizer.lr, before lr_rule")
    for search in searches:
        failed = search.failures
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        open_ = [f"failed{more}: {failure}" for failure in failed[:1]]
        remarks = search.choice.notes if search.choice else open_
        notes += [f"{search.name}: {remark}" for remark in remarks]
    return notes
