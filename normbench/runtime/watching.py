"""Tells whoever watches a command of work beside training that takes long, and of waits.

The watcher is that of the context and no argument: pictures are decoded wherever a configuration
first asks what its data are, and that is in many places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol


class Watcher(Protocol):
    """What is told; a screen."""

    def note(self, line: str) -> None:
        """Take a line that is good to know."""

    def work(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Follow work of `total` pieces; gives what is told how many are done."""


watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def work(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Let the watcher follow a `with` block that makes `total` pieces.

    Yields: what is to be told how many are done.
    """
    watches = watcher.get()
    if watches is None:
        yield lambda done: None
    else:
        with watches.work(what, total) as so_far:
            yield so_far


def note(line: str) -> None:
    """Tell the watcher a line, if there is one."""
    if watches := watcher.get():
        watches.note(line)
