"""Many runs: do their parts fit, train what is left, and compare what came of them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench.errors import Mistake, Refused
from normbench.parts.options import written
from normbench.results import compare, export, groups, lr_search, seeds, time_to_target
from normbench.results.groups import Result
from normbench.results.layout import Layout
from normbench.results.tables import Table
from normbench.rows import Row
from normbench.runs.reader import read_config, read_status
from normbench.settings.declared import RECORDING
from normbench.settings.fields import AUTO
from normbench.settings.schema import EVALUATION
from normbench.sweeps import folder, rounds
from normbench.sweeps.describe import (
    further_seeds,
    heading,
    labels,
    not_applying,
    searches,
    unpaired,
    varying,
)
from normbench.sweeps.items import LR, TUNE_SEED, Fitted, Item
from normbench.sweeps.plan import Sweep

if TYPE_CHECKING:
    from normbench.display.screen import Screen

AGAIN = "(force=true trains again)"


def check(sweep: Sweep) -> list[Mistake]:
    """Build every kind of model of the unfinished cells, to see whether its parts fit.

    With `skip_invalid` the runs that do not fit move to `skipped`.
    Returns: what the parts warn of, each warning once.
    Raises: Refused with all misfits.
    """
    left = {planned.fitted: planned.config for planned in sweep.cells if planned.left}
    if not left:
        return []
    from normbench.runs import check as checks  # torch, which a finished sweep does without

    mistakes: dict[Mistake, None] = {}
    warnings = dict.fromkeys(unpaired(planned.config for planned in sweep.cells))
    misfits: dict[Fitted, Refused] = {}
    seen: dict[str, checks.Checked] = {}
    for fitted, config in left.items():
        error, warned = checks.check_fit(config, config.shape, config.classes, seen)
        warnings.update(dict.fromkeys(warned))
        if error and config.skip_invalid:
            misfits[fitted] = error
        elif error:
            mistakes.update(dict.fromkeys(error.mistakes))
    sweep.skip(misfits)
    if not sweep.cells:  # nothing applies, so there is nothing to leave out
        mistakes.update((mistake, None) for cell in sweep.skipped for mistake in cell.misfits)
    if mistakes:
        raise Refused(*mistakes)
    return list(warnings)


def announce(sweep: Sweep, screen: Screen) -> None:
    """Show the heading of the runs that are known; needs no torch."""
    items = sweep.items
    if not items:
        return
    if len(items) == 1 and not sweep.skipped:
        done = f"{items[0].state} already: {items[0].config.directory} {AGAIN}"
        screen.heading([done] if items[0].finished else heading(items[0].config, 1))
        return
    count = _count("plan", items) + further_seeds(sweep)
    lines = [count]
    if sweep.seeds_only:
        lines = [*heading(items[0].config, len(items)), *[count] * (AGAIN in count)]
    if sweep.skipped:
        lines.append(
            f"cells that do not apply: {len(sweep.skipped)}, the reasons stand below the table"
        )
    screen.heading(lines)


def recorded_otherwise(sweep: Sweep) -> Iterator[Mistake]:
    """Warn where finished runs have not the rows that a command asks for: they keep theirs."""
    for key in RECORDING:
        asked = [planned for planned in sweep.cells if key in planned.settings]
        found = {
            id(item): (how, written(value))
            for planned in asked
            for item, _, how in planned.runs or ()
            if item.trained
            if (value := read_config(item.config.directory)["execution"].get(key))
            not in (None, getattr(how, key))
        }
        if found:
            how, value = next(iter(found.values()))
            runs = f"{len(found)} finished run{'s' * (len(found) > 1)}"
            why = f"{runs} recorded with {key}={value} will keep these rows"
            yield Mistake(f"{key}={written(getattr(how, key))}", why, "force=true, to train again")


@contextmanager
def single(item: Item, screen: Screen) -> Iterator[Callable[[Row], None] | None]:
    """Show the progress of the only run during a `with` block.

    Yields: what shows a row of it, None if the run is finished already.
    """
    if item.finished:
        yield None
        return
    with screen.progress(item.config.steps or 0) as progress:
        yield progress.row


def many(sweep: Sweep, screen: Screen) -> None:
    """Train what is left of several runs in a pool of children, with a live table.

    With `seeds=auto` there are further rounds, until each pair is decided.
    """
    train(sweep.items, labels(sweep.items), screen)
    seen = set(map(id, sweep.items))
    while rounds.automatic(sweep.cells):
        sweep.settle()
        items = [item for item in sweep.items if id(item) not in seen]
        if not items:
            return
        seen |= set(map(id, items))
        screen.heading([f"{_count('next seeds', items)}{further_seeds(sweep)}"])
        names = dict(zip(map(id, sweep.items), labels(sweep.items), strict=True))
        train(items, [names[id(item)] for item in items], screen)


def choose(sweep: Sweep, screen: Screen) -> None:
    """Train the tuning runs in a pool of children until every learning rate is chosen.

    A grid whose best learning rate is at its end is extended and trained on, in further rounds.
    """
    shown: set[int] = set()
    while items := [item for item in sweep.tuning_items if id(item) not in shown]:
        line = _count("tuning", items)
        if shown:
            wider = sum(tuning.open for tuning in sweep.tunings)
            line += f" more: the best lr is at the end of {wider} grid{'s' * (wider > 1)}"
        alone = not shown and len(sweep.tunings) == 1
        screen.heading([*heading(items[0].config, 1)[:alone], line])
        fixed = (LR, TUNE_SEED)
        varied = groups.swept([item.settings for item in sweep.tuning_items])
        keys = [key for key in varied if key not in fixed]
        names = groups.labels([item.settings for item in items], [*keys, *fixed])
        train(items, names, screen)
        shown |= set(map(id, items))
        sweep.settle()


def _count(what: str, items: Sequence[Item]) -> str:
    done = sum(item.finished for item in items)
    return f"{what}: {len(items)} runs" + (f", {done} finished already {AGAIN}" if done else "")


def train(items: list[Item], names: Sequence[str], screen: Screen) -> None:
    """Train what is left of some runs with a live table."""
    if all(item.finished for item in items):
        return
    from normbench.sweeps import scheduler  # imports torch, which a finished sweep does without

    with screen.sweep(names, [item.config.steps or 0 for item in items]) as live:
        for index, item in enumerate(items):
            if item.finished:
                live.update(index, item.state, _last(item), "finished already")
        scheduler.train_all(items, live.update)


def begin(sweep: Sweep, multirun: bool, words: Sequence[str]) -> None:
    """Write into a sweep's folder what is asked, so that one which is killed leaves its trace.

    The runs name the folder: with `seeds=auto` they are known at the end only.
    """
    if sweep.cells[0].config.seeds != AUTO and any(not item.finished for item in sweep.items):
        cells = sweep.results()
        everything = [*cells, *_not_tuned(sweep), *not_applying(sweep)]
        keys = varying([result.settings for result in everything], sweep)
        outcome = folder.Outcome(everything, first_of_each(cells), searches(sweep), keys)
        folder.begin(sweep, outcome, _command(multirun, words))


def _command(multirun: bool, words: Sequence[str]) -> str:
    return shlex.join(["normbench", "train", *["-m"] * multirun, *words])


def conclude(sweep: Sweep, screen: Screen, multirun: bool, words: Sequence[str]) -> None:
    """Show what came of the runs and of the tuning before them, and write a sweep's folder.

    Args: words: the settings as they were typed.
    """
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
    if multirun or tuned:
        outcome = folder.Outcome(everything, results, tuned, keys)
        place = folder.write(sweep, outcome, _command(multirun, words), shown)
        screen.note(f"sweep {place}")
    for number, table in enumerate(shown):
        screen.lines([""] * (number > 0))
        screen.table(table)
    screen.note(f"tensorboard --logdir {shlex.quote(str(sweep.outputs / 'runs'))}")


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


def _last(item: Item) -> Row:
    """Give what a finished run came to as a row for the screen."""
    final = (read_status(item.config.directory) or {}).get("final") or {}
    return Row("test", item.config.steps or 0, 0, 0, final)


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
