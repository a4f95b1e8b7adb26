"""A pool of children that trains many runs, one forked child each.

The parent imports torch and loads the data once, single-threaded, and touches neither CUDA nor
autograd; then it forks one child per run. On a GPU a child goes on with further runs, since a
CUDA context costs seconds. Children tell their rows as JSON lines through a pipe.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import IO, Any

from normbench.errors import InUse, first_line
from normbench.parts import registry
from normbench.rows import Row, from_json, to_json
from normbench.runs import build, tensorboard
from normbench.runs.directory import FINAL, read_status
from normbench.runs.run import run
from normbench.runtime import machine
from normbench.settings.schema import Config
from normbench.sweeps.plan import Item

BUSY_WAIT_S = 1.0  # between two looks at a run that another process works on
TRIES = 2  # a child that was killed is tried once more

Tell = Callable[[int, str, Row | None, str], None]


def at_a_time(config: Config) -> int:
    """How many runs like this one go at a time: `jobs`, or what cores or GPUs are enough for."""
    if config.dist["port"] is not None:
        return 1  # a port is for the workers of one run
    if isinstance(config.jobs, int):
        return config.jobs
    if config.device == "cuda":
        import torch

        return torch.cuda.device_count() if config.gpus == 1 else 1
    return max(1, machine.cores() // (config.threads * config.gpus))


def work(items: list[Item], tell: Tell) -> None:
    """Train every unfinished run; `tell(index, state, row, note)` hears of all that happens.

    Raises: KeyboardInterrupt or SystemExit once all children are gone.
    """
    todo = [item for item in items if not item.finished]
    if not todo:
        return
    _warm(todo)
    if sys.platform == "linux" and machine.place() is None:
        _Pool(items, tell).work()
        return
    # Forking is not safe with macOS's frameworks, and torchrun's processes go through all runs
    # together.
    for index, item in enumerate(items):
        if not item.finished:
            alone(item, partial(_told, tell, index))
            tell(index, item.state, None, item.message or "")


def _told(tell: Tell, index: int, row: Row) -> None:
    tell(index, "running", row, "")


def _warm(todo: list[Item]) -> None:
    """Import and load in the parent what every child needs."""
    if any(item.config.tb for item in todo):
        tensorboard.load_tensorboard()
    for item in todo:
        build.scaling(item.config)
        for group in registry.KINDS:
            name = getattr(item.config, group)["name"]
            for member in name.split("+"):
                registry.find(group, member)
    machine.prepare(todo[0].config.threads)  # after loading: what that took is given back


def alone(item: Item, each: Callable[[Row], None]) -> None:
    """Run one item in this process and note how it ended."""
    try:
        item.state = run(item.config, each)
    except InUse:
        item.state = "busy"
    except Exception as error:  # a failed run must not stop the others; its folder has the trace
        item.state, item.message = "failed", first_line(error)


@dataclass
class _Child:
    """A forked child: its process, the pipes to and from it, its run and what that takes."""

    pid: int
    orders: IO[str]
    news: int
    index: int = -1
    part: Fraction = Fraction(0)
    rest: bytes = b""


class _Pool:
    """Keeps the machine busy with children until every run is done.

    A run takes one n-th of the machine where n like it go at a time. The first one that fits
    beside the others starts.
    """

    def __init__(self, items: list[Item], tell: Tell) -> None:
        self.items, self.tell = items, tell
        self.parts = [Fraction(1, at_a_time(item.config)) for item in items]
        self.waiting = deque(i for i, item in enumerate(self.items) if not item.finished)
        self.busy: list[tuple[float, int]] = []
        self.children: list[_Child] = []
        self.selector = selectors.DefaultSelector()
        # A child that has touched a GPU cannot fork workers any more.
        alone = all(item.config.gpus == 1 for item in items)
        self.reuse = alone and items[0].config.device == "cuda"

    def work(self) -> None:
        try:
            while self.waiting or self.children or self.busy:
                self._look_again()
                while (index := self._next()) is not None:
                    self._start(index)
                for key, _ in self.selector.select(BUSY_WAIT_S):
                    self._hear(key.data)
        finally:
            self._end()

    def _next(self) -> int | None:
        """Take out the first waiting run that fits beside those that go on, if there is one."""
        free = 1 - sum(child.part for child in self.children)
        if not free:
            return None
        index = next((each for each in self.waiting if self.parts[each] <= free), None)
        if index is not None:
            self.waiting.remove(index)
        return index

    def _start(self, index: int) -> None:
        order_end, orders = os.pipe()
        news, news_end = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(orders)
            os.close(news)
            for other in self.children:  # or it would never hear that its pipe was closed
                if not other.orders.closed:  # as it is once its last run has ended
                    os.close(other.orders.fileno())
                os.close(other.news)
            _child(self.items, order_end, news_end)
        os.close(order_end)
        os.close(news_end)
        child = _Child(pid, os.fdopen(orders, "w"), news)
        self.children.append(child)
        self.selector.register(news, selectors.EVENT_READ, child)
        self._order(child, index)

    def _order(self, child: _Child, index: int) -> None:
        child.index, child.part = index, self.parts[index]
        self.items[index].tries += 1
        self.tell(index, "running", None, "")
        child.orders.write(f"{index}\n")
        child.orders.flush()

    def _hear(self, child: _Child) -> None:
        data = os.read(child.news, 1 << 16)
        if not data:
            self._gone(child)
            return
        *lines, child.rest = (child.rest + data).split(b"\n")
        for line in lines:
            news = json.loads(line)
            if "row" in news:
                row = from_json(news["row"])
                assert isinstance(row, Row)
                self.tell(child.index, "running", row, "")
            else:
                self._ended(child, news)

    def _ended(self, child: _Child, news: dict[str, Any]) -> None:
        item, index = self.items[child.index], child.index
        item.state, item.message = news["state"], news["message"]
        child.index = -1
        if item.state == "busy":
            self.busy.append((time.monotonic() + BUSY_WAIT_S, index))
            self.tell(index, "busy", None, "another process works on it")
        else:
            self.tell(index, item.state, None, item.message or "")
        if self.reuse and self.waiting:
            self._order(child, self.waiting.popleft())
        else:
            child.orders.close()

    def _gone(self, child: _Child) -> None:
        self.selector.unregister(child.news)
        os.close(child.news)
        with suppress(OSError):
            child.orders.close()
        os.waitpid(child.pid, 0)
        self.children.remove(child)
        if child.index < 0:
            return
        item = self.items[child.index]  # it died before it could say how it ended
        if item.tries < TRIES:
            self.waiting.append(child.index)
        else:
            item.state, item.message = "failed", "its process was killed"
            self.tell(child.index, "failed", None, item.message)

    def _look_again(self) -> None:
        now = time.monotonic()
        due = [index for when, index in self.busy if when <= now]
        self.busy = [(when, index) for when, index in self.busy if when > now]
        for index in due:
            status = read_status(self.items[index].config.directory) or {}
            if status.get("state") in FINAL:
                self.items[index].state = status["state"]
                self.tell(index, status["state"], None, "by another process")
            else:
                self.waiting.append(index)

    def _end(self) -> None:
        for child in self.children:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGTERM)
        for child in self.children:
            with suppress(ChildProcessError):
                os.waitpid(child.pid, 0)
        self.selector.close()


def _child(items: list[Item], order_end: int, news_end: int) -> None:
    """Serve orders until the pipe closes; never returns."""
    machine.end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too and sends SIGTERM
    code = 1
    try:
        with os.fdopen(news_end, "w", buffering=1) as news, os.fdopen(order_end) as orders:
            for order in _lines(orders):
                item = items[int(order)]
                alone(item, lambda row: _say(news, {"row": to_json(row)}))
                _say(news, {"state": item.state, "message": item.message})
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        os._exit(code)  # no clean-up of what belongs to the parent


def _lines(stream: IO[str]) -> Iterator[str]:
    return iter(stream.readline, "")


def _say(stream: IO[str], news: dict[str, Any]) -> None:
    stream.write(json.dumps(news) + "\n")
    stream.flush()
