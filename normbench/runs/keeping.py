"""When a run is kept: now and then, and before a signal ends it."""

from __future__ import annotations

import math
import mmap
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from normbench.engine.budget import PRETRAINING
from normbench.runtime import collectives, signs

if TYPE_CHECKING:
    from normbench.runs.job import Job

APART = 100  # times what keeping took: it costs at most 1 % of the time, and records another
LEAST_S = 5.0  # between two checkpoints: less would not be worth a file
PATIENCE_S = 4.0  # from a signal to a halt of several workers; then they end without
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Keeper:
    """Says when a run halts to be kept, and holds back the signals that end it until it is.

    Processes that are forked from the one that listens know what it has heard.

    Args: every: steps between two checkpoints; 0: chosen by what they cost. runs: of this process.
    """

    def __init__(self, every: int, runs: int = 1) -> None:
        self.every, self.due = every, time.monotonic() + LEAST_S
        self.apart = APART * runs
        self.since = math.inf  # when a signal was heard
        self._heard = mmap.mmap(-1, 1)  # its number: of this process and of its children
        self._before: dict[int, Callable[..., Any]] = {}

    @property
    def heard(self) -> int:
        """Give the number of the signal that asks to end, 0 for none."""
        return self._heard[0]

    @heard.setter
    def heard(self, number: int) -> None:
        self._heard[0] = number
        self.since = time.monotonic()

    def halts(self, step: int) -> bool:
        """Tell whether to halt after a step."""
        return self.stops() or self.regular(step) or self.overdue()

    def regular(self, step: int) -> bool:
        """Tell whether a step is one after which to halt in any case."""
        return self.every > 0 and step % self.every == 0

    def overdue(self) -> bool:
        """Tell whether it is time for the next checkpoint."""
        return not self.every and time.monotonic() >= self.due

    def stops(self) -> bool:
        """Tell whether a signal asks to end."""
        return self.heard > 0

    def wait(self) -> None:
        """End if several workers have not come to a halt since the signal.

        Raises: as `end` does.
        """
        if self.heard and time.monotonic() - self.since > PATIENCE_S:
            self.end()

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Time how long it takes to keep the run, and set the next time by it."""
        start = time.monotonic()
        yield
        now = time.monotonic()
        self.due = now + max(LEAST_S, self.apart * (now - start))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hold back signals during a `with` block; a second one ends it at once."""
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self._before = {number: each for number, each in handlers.items() if callable(each)}
        for number in self._before:
            signal.signal(number, self._hear)
        try:
            yield
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)
        if self.heard:  # it came after the last halt
            self._before[self.heard](self.heard, None)

    def end(self) -> NoReturn:
        """Do what the signal asks for.

        Raises: KeyboardInterrupt or SystemExit.
        """
        number, self.heard = self.heard, 0
        if number in self._before:
            self._before[number](number, None)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def _hear(self, number: int, frame: Any) -> None:
        if not self.heard:
            self.heard = number
        else:
            self._before[number](number, frame)


class Lane(Keeper):
    """The keeper of one of several runs in a process, which all end by a signal, one by one.

    Args: process: hears the signals; runs: how many there are.
    """

    def __init__(self, every: int, process: Keeper, runs: int) -> None:
        super().__init__(every, runs)
        self._heard = process._heard

    def end(self) -> NoReturn:
        """Do what the signal asks for in this run.

        Raises: KeyboardInterrupt or SystemExit.
        """
        raise KeyboardInterrupt if self.heard == signal.SIGINT else SystemExit(128 + self.heard)


class Together:
    """When several workers halt: all of them after the same step, whoever wants it.

    Who wants it says so by a number that all workers send with their gradients, so no message is
    added: 1 to keep the run, infinity to end it. They look at it where that costs no waiting: on
    CPUs after each step, on GPUs at rows of training, which wait for the device anyway. Until
    training begins worker 0 halts alone, for all have the same state, and know of no other.
    """

    def __init__(self, job: Job, keeper: Keeper) -> None:
        self.at, self.budget, self.keeper = job.at, job.budget, keeper
        self.said = job.optimizer.message[-1]
        self.ends = False  # whether it was to end that they halted

    def __call__(self, step: int) -> bool:
        """Tell whether to halt after a step."""
        signs.OWN.steps += 1
        first, keeper = not collectives.rank(), self.keeper
        if self.at.stage == PRETRAINING:
            return first and keeper.halts(step)
        looks = self.said.device.type == "cpu" or any(self.budget.due(step))
        said = float(self.said) if looks else 0.0
        self.ends = said == math.inf
        if self.ends and not keeper.stops():  # another worker has heard it
            keeper.heard = signal.SIGTERM
        if said:
            self.said.zero_()
        elif keeper.stops() or (first and keeper.overdue()):
            self.said.fill_(math.inf if keeper.stops() else 1.0)
        return said > 0 or keeper.regular(step)

    def goes_on(self) -> bool:
        """Note that an evaluation has come on by a batch; it is not stopped."""
        signs.OWN.steps += 1
        return False


def heeded(job: Job, keeper: Keeper) -> Together:
    """Let a job halt when a keeper says so, on several workers together."""
    together, alone = Together(job, keeper), collectives.world_size() == 1
    job.at.halts = keeper.halts if alone else together
    job.evaluator.stops = keeper.stops if alone else together.goes_on
    return together
