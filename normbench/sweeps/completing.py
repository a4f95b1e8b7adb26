"""One training of a sweep in this process, with the evaluations of its cells."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

from normbench.engine.train import Due
from normbench.errors import InUse, NormbenchError, first_line
from normbench.rows import Row
from normbench.runs.judge import judge
from normbench.runs.keeping import Keeper
from normbench.runs.run import recorded, run
from normbench.runtime import machine
from normbench.sweeps.items import Item


def complete(item: Item, on_row: Callable[[Row], None]) -> None:
    """Train an item in this process unless it is trained, and judge it in all ways of its cells.

    Raises: as `runs.run` and `runs.judge` do.
    """
    with _judged(item):
        if not item.trained:
            item.state = run(item.config, on_row)


def run_one(item: Item, on_row: Callable[[Row], None]) -> None:
    """Complete one item in this process and note how it ended."""
    with _noted(item):
        complete(item, on_row)


def step_by_step(
    item: Item, on_row: Callable[[Row], None], keeper: Keeper
) -> Generator[Due, None, None]:
    """Do as `run_one` does, and yield each step, to be made before the next one is asked for."""
    with _noted(item), _judged(item):
        if not item.trained:
            item.state = yield from recorded(item.config, keeper, on_row)


@contextmanager
def _judged(item: Item) -> Iterator[None]:
    """Judge what has been trained in a `with` block, here or by another process."""
    try:
        yield
    except InUse:
        item.look()
        if not item.trained:
            raise
    judge(item.config, item.missing)
    item.look()


@contextmanager
def _noted(item: Item) -> Iterator[None]:
    """Note how a `with` block ended, whatever an item comes to in it."""
    try:
        yield
    except InUse as refused:
        item.state, item.message = "stopped" if refused.stopped else "busy", refused.holder
    except Exception as error:  # a failed run must not stop the others; its folder has the trace
        item.state, item.message = "failed", first_line(error)
        item.fix = error.mistakes[0].fix if isinstance(error, NormbenchError) else ""
        item.tight = machine.out_of_memory(error.__cause__ or error)
