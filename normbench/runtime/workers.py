"""The processes that train one run together on this machine: starts them, hears them, ends them.

The parent trains nothing. It forks one child per worker, hears each through a pipe of its own, and
passes on what worker 0 tells. A child tells its parent every `BEAT_S` that it is alive, so that one
which is stopped or stuck in the kernel is noticed as well as one that died; and how far it
is in the messages to the others, so that one which lives but does not come to them is noticed too.
However the parent ends, the kernel ends its children.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import Any

from normbench.errors import Mistake, NormbenchError, first_line
from normbench.runtime import collectives, machine

BEAT_S = 1.0  # between two signs of life
SILENCE_S = 15.0  # without one, a worker is lost
FACTOR = 10  # likewise if it needs so many times longer than another to come to the next message
LAST_WORDS_S = 5.0  # how long the others may take to tell of a loss that one has noticed

News = dict[str, Any]
Say = Callable[[News], None]


class RankLost(NormbenchError):
    """A worker died, hangs, or was cut off from the others."""


class WorkFailed(NormbenchError):
    """A worker raised an error, whose trace is a note of this one."""

    def __init__(self, mistakes: list[Mistake], code: int) -> None:
        Exception.__init__(self, *mistakes)
        self.mistakes, self.code = mistakes, code


@dataclass
class _Worker:
    """A child: its process, the pipe from it, when it was last heard of and how far it was then."""

    rank: int
    pid: int
    pipe: int
    heard: float
    turns: int = 0
    rest: bytes = b""
    done: bool = False


def together(
    workers: int, device: str, work: Callable[[Say], None], port: int | None = None
) -> Generator[News, None, None]:
    """Run `work(say)` in `workers` processes joined in a group; yield what worker 0 says.

    Args: device: of the run; worker k of `cuda` takes the k-th device. work: is called in each
        process; what the others say is dropped. The caller has not touched CUDA. port: of this
        machine, where they meet; None for a file.
    Raises: RankLost, naming the worker; WorkFailed with the error of a worker. No process is left
        when the generator ends, whatever ends it.
    """
    with tempfile.TemporaryDirectory(prefix="normbench-") as folder:
        meeting = f"file://{folder}/meeting" if port is None else f"tcp://127.0.0.1:{port}"
        team = _Team(workers, device, meeting, work)
        try:
            yield from team.news()
        finally:
            team.end()


class _Team:
    """The workers of a run as their parent sees them."""

    def __init__(
        self, workers: int, device: str, meeting: str, work: Callable[[Say], None]
    ) -> None:
        self.selector = selectors.DefaultSelector()
        self.workers: list[_Worker] = []
        self.lost: str | None = None  # what a worker said that noticed the loss of another
        self.deadline = 0.0  # by which the lost one should have shown
        self.front = 0  # turns of the foremost worker
        self.moved, self.took = time.monotonic(), 0.0  # when it took the last, after how long
        sys.stdout.flush()
        sys.stderr.flush()
        for rank in range(workers):
            news, end = os.pipe()
            pid = os.fork()
            if pid == 0:
                for other in self.workers:
                    os.close(other.pipe)
                os.close(news)
                _child(_Place(rank, workers, device, meeting), end, work)
            os.close(end)
            worker = _Worker(rank, pid, news, time.monotonic())
            self.workers.append(worker)
            self.selector.register(news, selectors.EVENT_READ, worker)

    def news(self) -> Iterator[News]:
        """Yield the news of worker 0 until all are done."""
        looked = time.monotonic()
        while not all(worker.done for worker in self.workers):
            events = self.selector.select(BEAT_S)
            now = time.monotonic()
            if now - looked > 2 * BEAT_S + LAST_WORDS_S:  # this very process was stopped
                for worker in self.workers:
                    worker.heard = now
                self.moved = now
            looked = now
            for key, _ in events:
                yield from self._hear(key.data, now)
            self._check(now)

    def end(self) -> None:
        """Kill whoever is left and wait for all."""
        for worker in self.workers:
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
        for worker in self.workers:
            with suppress(ChildProcessError):
                os.waitpid(worker.pid, 0)
            with suppress(OSError):
                os.close(worker.pipe)
        self.selector.close()

    def _hear(self, worker: _Worker, now: float) -> Iterator[News]:
        data = os.read(worker.pipe, 1 << 16)
        worker.heard = now
        if not data:
            self.selector.unregister(worker.pipe)
            if not worker.done:
                raise RankLost(f"worker {worker.rank}", self._how(worker), "the same command again")
            return
        *lines, worker.rest = (worker.rest + data).split(b"\n")
        for line in lines:
            news = json.loads(line)
            if "failed" in news:
                raise _failure(worker.rank, news["failed"])
            if "done" in news:
                worker.done, worker.turns = True, news["done"]
            elif "lost" in news:
                worker.done = True
                if self.lost is None:
                    self.lost = f"worker {worker.rank} was cut off: {news['lost']}"
                    self.deadline = now + SILENCE_S + LAST_WORDS_S
            elif "beat" in news:
                worker.turns = news["beat"]
            elif worker.rank == 0:
                yield news

    def _check(self, now: float) -> None:
        front = max(worker.turns for worker in self.workers)
        if front > self.front:
            self.front, self.took, self.moved = front, now - self.moved, now
        waited = now - self.moved
        for worker in self.workers:
            silent = now - worker.heard
            if not worker.done and silent > SILENCE_S:
                why = f"gave no sign of life for {SILENCE_S:.0f} s"
                raise RankLost(f"worker {worker.rank}", why, "the same command again")
            # One that is in a message waits as well, and one that was stopped is soon silent.
            computes = worker.turns % 2 == 0 and silent < 3 * BEAT_S
            behind = computes and worker.turns < front
            if behind and waited > max(SILENCE_S, FACTOR * self.took):
                why = f"hangs: the others have waited {waited:.0f} s for it"
                raise RankLost(f"worker {worker.rank}", why, "the same command again")
        if self.lost and now > self.deadline:
            raise RankLost("gpus", self.lost, "the same command again")

    def _how(self, worker: _Worker) -> str:
        _, status = os.waitpid(worker.pid, 0)
        if os.WIFSIGNALED(status):
            return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
        return f"ended with code {os.waitstatus_to_exitcode(status)}"


@dataclass(frozen=True)
class _Place:
    """Which worker a child is, of how many, and where they meet."""

    rank: int
    workers: int
    device: str
    meeting: str


def _child(place: _Place, pipe: int, work: Callable[[Say], None]) -> None:
    """Be a worker; never returns."""
    machine.end_with_parent(signal.SIGKILL)  # one that waits for others hears no other signal
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    say, code = _voice(pipe), 1
    threading.Thread(target=_beat, args=(say,), daemon=True).start()
    try:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # all workers are on this machine
        machine.take_device(place.device, place.rank)
        collectives.join(place.rank, place.workers, place.device, place.meeting)
        work(say)
        say({"done": collectives.turns()})
        code = 0
    except collectives.PeerLost as error:
        say({"lost": str(error)})
    except BaseException as error:
        say({"failed": _told(error)})
    finally:
        os._exit(code)  # no clean-up of what belongs to the parent


def _voice(pipe: int) -> Say:
    lock = threading.Lock()

    def say(news: News) -> None:
        data = json.dumps(news).encode() + b"\n"
        with lock:
            while data:
                data = data[os.write(pipe, data) :]

    return say


def _beat(say: Say) -> None:
    with suppress(OSError):
        while True:
            say({"beat": collectives.turns()})
            time.sleep(BEAT_S)


def _told(error: BaseException) -> News:
    """An error as plain data."""
    mistakes = error.mistakes if isinstance(error, NormbenchError) else []
    return {
        "message": first_line(error),
        "mistakes": [astuple(each) for each in mistakes],
        "code": error.code if isinstance(error, NormbenchError) else 1,
        "oom": machine.out_of_memory(error),
        "trace": traceback.format_exc(),
    }


def _failure(rank: int, told: News) -> Exception:
    """What a worker met, as an error of this process with the worker's trace as its note."""
    error: Exception = MemoryError(told["message"])
    if not told["oom"]:
        mistakes = told["mistakes"] or [(f"worker {rank}", told["message"], "see error.txt")]
        error = WorkFailed([Mistake(*each) for each in mistakes], told["code"])
    error.add_note(told["trace"])
    return error
