"""Many runs: do their parts fit, train what is left, and compare what came of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from normbench.errors import Mistake, Refused, counted
from normbench.parts.options import written
from normbench.results import groups
from normbench.rows import Row
from normbench.runs.reader import read_config, read_status
from normbench.settings.declared import RECORDING
from normbench.sweeps import lanes, rounds
from normbench.sweeps.curves import Board
from normbench.sweeps.describe import (
    further_seeds,
    heading,
    labels,
    unpaired,
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
    configs = [planned.config for planned in sweep.cells]
    warnings = dict.fromkeys([*unpaired(configs), *lanes.one_by_one(configs)])
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
            runs = counted(len(found), "finished run")
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


def many(sweep: Sweep, screen: Screen, board: Board | None = None) -> None:
    """Train what is left of several runs in a pool of children, with a live table.

    With `seeds=auto` there are further rounds, until each pair is decided.
    """
    grows = rounds.automatic(sweep.cells)
    train(sweep.items, labels(sweep.items), screen, board, grows)
    seen = set(map(id, sweep.items))
    while grows:
        sweep.settle()
        items = [item for item in sweep.items if id(item) not in seen]
        if not items:
            return
        seen |= set(map(id, items))
        screen.heading([f"{_count('next seeds', items)}{further_seeds(sweep)}"])
        names = dict(zip(map(id, sweep.items), labels(sweep.items), strict=True))
        train(items, [names[id(item)] for item in items], screen, grows=grows)


def choose(sweep: Sweep, screen: Screen) -> None:
    """Train the tuning runs in a pool of children until every learning rate is chosen.

    A grid whose best learning rate is at its end is extended and trained on, in further rounds.
    """
    shown: set[int] = set()
    while items := [item for item in sweep.tuning_items if id(item) not in shown]:
        line = _count("tuning", items)
        if shown:
            wider = sum(tuning.open for tuning in sweep.tunings)
            line += f" more: the best lr is at the end of {counted(wider, 'grid')}"
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
    return f"{what}: {counted(len(items), 'run')}" + (
        f", {done} finished already {AGAIN}" if done else ""
    )


def train(
    items: list[Item],
    names: Sequence[str],
    screen: Screen,
    board: Board | None = None,
    grows: bool = False,
) -> None:
    """Train what is left of some runs with a live table, and curves of their cells.

    Args: grows: as `scheduler.train_all` takes it.
    """
    if all(item.finished for item in items):
        return
    from normbench.sweeps import scheduler  # imports torch, which a finished sweep does without

    with screen.sweep(names, [item.config.steps or 0 for item in items]) as live:
        for index, item in enumerate(items):
            if item.finished:
                live.update(index, item.state, _last(item), "finished already")

        def update(*news: Any) -> None:
            live.update(*news)
            if board:
                board.refresh()

        scheduler.train_all(items, update, grows)


def _last(item: Item) -> Row:
    """Give what a finished run came to as a row for the screen."""
    final = (read_status(item.config.directory) or {}).get("final") or {}
    return Row("test", item.config.steps or 0, 0, 0, final)
