"""What a sweep leaves behind: its folder, its tables, its curves in TensorBoard."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench.errors import counted
from normbench.parts.options import written
from normbench.results import compare, export, groups, lr_search, seeds, time_to_target
from normbench.results.groups import Result
from normbench.results.layout import Layout
from normbench.results.tables import Table
from normbench.runs.attempt import now
from normbench.runs.reader import read_status
from normbench.settings.schema import EVALUATION
from normbench.sweeps import folder, rounds
from normbench.sweeps.curves import Board
from normbench.sweeps.describe import not_applying, searches, unpaired, varying
from normbench.sweeps.plan import Sweep
from normbench.sweeps.sweep import announce, choose

if TYPE_CHECKING:
    from normbench.display.screen import Screen


def begin(sweep: Sweep, screen: Screen, multirun: bool, words: Sequence[str]) -> Board | None:
    """Write a sweep's folder, so that a kill leaves a trace, and choose the rates of `tune=lr`.

    Returns: what shows there how the runs go on, if they are shown in TensorBoard.
    """
    asked = _command(multirun, words), now()
    board = _trace(sweep, *asked) if multirun or sweep.tunings else None
    if sweep.tunings:
        choose(sweep, screen)
        announce(sweep, screen)
        board = _trace(sweep, *asked)  # its runs are known by now
    return board


def _trace(sweep: Sweep, command: str, since: str) -> Board | None:
    if not sweep.todo:
        return None
    cells = sweep.results()
    everything = [*cells, *_not_tuned(sweep), *not_applying(sweep)]
    keys = varying([result.settings for result in everything], sweep)
    outcome = folder.Outcome(everything, first_of_each(cells), searches(sweep), keys)
    return _board(folder.begin(sweep, outcome, command, since), sweep, keys)


def _board(place: Path, sweep: Sweep, keys: Sequence[str]) -> Board | None:
    return Board(place, sweep, keys) if any(item.config.tb for item in sweep.items) else None


def _command(multirun: bool, words: Sequence[str]) -> str:
    return shlex.join(["normbench", "train", *["-m"] * multirun, *words])


def stopped(sweep: Sweep, screen: Screen, multirun: bool, words: Sequence[str]) -> None:
    """Show what came of the runs that were done when a command was stopped, and how to go on.

    Args: words: the settings as they were typed.
    """
    for item in sweep.items:
        item.look()
    done = sum(item.finished for item in sweep.items)
    if multirun and done:
        conclude(sweep, screen, multirun, words, state="stopped")
    states = [read_status(item.config.directory) or {} for item in sweep.items]
    begun = [status for status in states if status.get("state") == "interrupted"]
    kept = f"{done} of {counted(len(states), 'run')} done, {len(begun)} more kept unfinished"
    if len(states) == 1:
        kept = f"at step {states[0].get('step', 0)} of {sweep.items[0].config.steps}, which is kept"
    screen.note(f"stopped: {kept}; the same command goes on:")
    screen.command(f"  {_command(multirun, words)}")


def conclude(
    sweep: Sweep, screen: Screen, multirun: bool, words: Sequence[str], state: str = "ended"
) -> Path | None:
    """Show what came of runs that `words` asked for; write and return the folder of a sweep."""
    sweep.catch_up()
    cells, tuned = sweep.results(), searches(sweep)
    results = first_of_each(cells)
    everything = [*cells, *_not_tuned(sweep), *not_applying(sweep)]
    keys = varying([result.settings for result in everything], sweep)
    metrics = ("test/accuracy", *groups.further_tests(results)) if multirun else ()
    config = sweep.cells[0].config
    base = None if config.baseline is None else written(config.baseline)
    most = config.seeds_max if rounds.automatic(sweep.cells) else None
    layouts = [
        compare.layout(everything, keys, metric, config.compare, base, most) for metric in metrics
    ]
    document: dict[str, Any] = {"command": "train", "runs": _documents(sweep, results)}
    if layouts and keys:
        document["comparison"] = export.comparison(layouts[0])
    if tuned:
        document["tuning"] = [lr_search.document(search) for search in tuned]
    screen.document(document)
    shown = [lr_search.table(tuned)] if tuned else []
    if multirun:
        further = (_differences(sweep, layouts[0]), time_to_target.table(results, keys))
        shown += [*map(compare.table, layouts), *filter(None, further)]
    elif results:
        shown.append(time_to_target.beneath(seeds.seeds(results), results))
    curves, place = sweep.outputs / "runs", None
    if multirun or tuned:
        outcome = folder.Outcome(everything, results, tuned, keys)
        place = folder.write(sweep, outcome, _command(multirun, words), shown, state)
        screen.note(f"sweep {place}")
        board = _board(place, sweep, keys)
        curves = board.write() if board else curves
    _show(screen, shown, curves)
    return place


def _show(screen: Screen, shown: Sequence[Table], curves: Path) -> None:
    for number, table in enumerate(shown):
        screen.lines([""] * (number > 0))
        screen.table(table)
    screen.command(f"tensorboard --logdir {shlex.quote(str(curves))}")


def _differences(sweep: Sweep, layout: Layout) -> Table | None:
    """Compare by seed, and say beneath it where one seed starts from other weights."""
    table = compare.differences(layout)
    if table is None:
        return None
    found = unpaired(planned.config for planned in sweep.cells)
    return replace(table, notes=(*table.notes, *(f"{told.subject} {told.why}" for told in found)))


def first_of_each(cells: Sequence[Result]) -> list[Result]:
    """Leave out the further ones of cells that came to the same run and judge it alike."""
    found: dict[tuple[str, str], Result] = {}
    for result in cells:
        found.setdefault((result.directory, result.evaluation), result)
    return list(found.values())


def _not_tuned(sweep: Sweep) -> list[Result]:
    """Give the cells without a learning rate: a run of their tuning failed or is open."""
    cells = []
    for planned in sweep.cells:
        if planned.runs is None and planned.tuning:
            failures = planned.tuning.search().failures
            message = f"tuning: {failures[0]}" if failures else None
            state = "failed" if failures else "planned"
            cells.append(Result("", planned.settings, state, message=message))
    return cells


def _documents(sweep: Sweep, results: Sequence[Result]) -> list[dict[str, Any]]:
    """Give one entry per configuration with all its seeds, for each way in which it is judged."""
    configs = {
        (str(item.config.directory.parent), how.evaluation_name or None): how
        for item in sweep.items
        for _, how in item.cells
    }
    grouped: dict[object, list[Result]] = {}
    for result in results:
        folder = str(Path(result.directory).parent)
        grouped.setdefault((folder, result.evaluation or None), []).append(result)
    documents = []
    for document in export.documents(results):
        place = str(document["dir"]), document["evaluation"]
        how = configs[place]  # type: ignore[index]
        judged = {key: getattr(how, key) for key in EVALUATION}
        target = time_to_target.document(grouped[place])
        documents.append({**document, "config": {**how.experiment(), **judged}, "target": target})
    return documents
