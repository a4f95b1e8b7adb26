"""The command that trains in this context, as our plugins of Hydra and its task find it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from normbench.display.screen import Screen
    from normbench.sweeps.plan import Sweep
    from normbench.sweeps.trials import Trials


@dataclass
class Command:
    """One `train`: its checked runs, where they are shown, and the exit codes of Hydra's jobs.

    `trials` are those of a sweeper that chooses its cells itself; `raised`: what a run did raise;
    `holds`: whether it is held back until Hydra has ended; `untold`: whether the runs are announced
    only when Hydra has started.

    Args: words: the settings as they were typed.
    """

    sweep: Sweep
    screen: Screen
    multirun: bool = False
    words: Sequence[str] = ()
    trials: Trials | None = None
    codes: list[int] = field(default_factory=list)
    raised: Exception | None = None
    holds: bool = False
    untold: bool = False


# Hydra calls its plugins and the task with its own arguments only. Other threads, and processes
# that another launcher started, have no command: there a job stands for itself.
running: ContextVar[Command | None] = ContextVar("running", default=None)


@contextmanager
def entered(command: Command | None) -> Iterator[None]:
    """Make a command the one that trains, until the end of a `with` block."""
    token = running.set(command)
    try:
        yield
    finally:
        running.reset(token)
