"""When a run is kept: now and then, and before a signal ends it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

APART = 50  # times what keeping took: it costs at most 2 % of the time
LEAST_S = 5.0  # between two checkpoints: less would not be worth a file
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Keeper:
    """Says when a run halts to be kept, and holds back the signals that end it until it is.

    Args: every: steps between two checkpoints; 0: chosen by what they cost.
    """

    def __init__(self, every: int) -> None:
        self.every, self.due = every, time.monotonic() + LEAST_S
        self.heard: int | None = None
        self._before: dict[int, Callable[..., Any]] = {}

    def halts(self, step: int) -> bool:
        """Tell whether to halt after a step."""
        if self.heard is not None:
            return True
        return step % self.every == 0 if self.every else time.monotonic() >= self.due

    def stops(self) -> bool:
        """Tell whether a signal asks to end."""
        return self.heard is not None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Time how long it takes to keep the run, and set the next time by it."""
        start = time.monotonic()
        yield
        now = time.monotonic()
        self.due = now + max(LEAST_S, APART * (now - start))

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
        if self.heard is not None:  # it came after the last halt
            self._before[self.heard](self.heard, None)

    def end(self) -> NoReturn:
        """Do what the signal asks for.

        Raises: KeyboardInterrupt or SystemExit.
        """
        assert self.heard is not None
        number, self.heard = self.heard, None
        self._before[number](number, None)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def _hear(self, number: int, frame: Any) -> None:
        if self.heard is None:
            self.heard = number
        else:
            self._before[number](number, frame)
