"""The processes that train one run together on this machine: starts, supervises and ends them.

The parent trains nothing. It forks one child per worker and passes on the messages of worker 0. A
child tells its parent every `BEAT_S` that it is alive, so that one which is stopped or stuck in the
kernel is noticed as well as one that died; and how far it is in the messages to the others, so that
one which lives but does not come to them is noticed too.
"""

from __future__ import annotations

import os
import selectors
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import partial

from normbench.errors import FileRefused, Mistake, NormbenchError, first_line
from normbench.runtime import collectives, machine, processes
from normbench.runtime.processes import Channel, Child, Message

BEAT_S = 1.0  # between two signs of life
SILENCE_S = 15.0  # without one, a worker is lost
FACTOR = 10  # likewise if it needs so many times longer than another to come to the next message
LAST_WORDS_S = 5.0  # how long the others may take to report a loss that one has noticed

Send = Callable[[Message], None]


class RankLost(NormbenchError):
    """A worker died, hangs, or was cut off from the others."""

    reason = "rank_lost"


class WorkFailed(NormbenchError):
    """A worker raised an error, whose trace is a note of this one."""

    def __init__(self, mistakes: list[Mistake], code: int) -> None:
        Exception.__init__(self, *mistakes)
        self.mistakes, self.code = mistakes, code
        self.reason = "data" if code == FileRefused.code else "error"


@dataclass
class _Worker:
    """A child: when it was last heard of, how far it was then, and whether it has ended well."""

    rank: int
    child: Child
    heard: float
    turns: int = 0
    done: bool = False


def together(
    workers: int, device: str, work: Callable[[Send], None], port: int | None = None
) -> Generator[Message, None, None]:
    """Run `work(send)` in `workers` processes joined in a group; yield what worker 0 sends.

    Args: device: of the run; worker k of `cuda` takes the k-th device. work: is called in each
        process; what the others send is dropped. The caller has not touched CUDA. port: of this
        machine, where they meet; None for a file.
    Raises: RankLost, naming the worker; WorkFailed with the error of a worker. No process is left
        when the generator ends, whatever ends it.
    """
    with tempfile.TemporaryDirectory(prefix="normbench-") as folder:
        meeting = f"file://{folder}/meeting" if port is None else f"tcp://127.0.0.1:{port}"
        team = _Team(
            [partial(_be, rank, workers, device, meeting, work) for rank in range(workers)]
        )
        try:
            yield from team.messages()
        finally:
            team.end()


class _Team:
    """The workers of a run as their parent sees them."""

    def __init__(self, mains: list[Callable[[Channel], int]]) -> None:
        self.selector = selectors.DefaultSelector()
        self.workers: list[_Worker] = []
        self.lost: str | None = None  # what a worker said that noticed the loss of another
        self.deadline = 0.0  # by which the lost one should have shown
        self.front = 0  # turns of the foremost worker
        self.moved, self.took = time.monotonic(), 0.0  # when it took the last, after how long
        for rank, main in enumerate(mains):
            siblings = [worker.child for worker in self.workers]
            # One that waits for others hears no signal but this.
            child = processes.fork(main, siblings, dies_by=signal.SIGKILL)
            worker = _Worker(rank, child, time.monotonic())
            self.workers.append(worker)
            self.selector.register(child.channel.source, selectors.EVENT_READ, worker)

    def messages(self) -> Iterator[Message]:
        """Yield the messages of worker 0 until all are done."""
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
                yield from self._receive(key.data, now)
            self._check(now)

    def end(self) -> None:
        """Kill whoever is left and wait for all."""
        for worker in self.workers:
            worker.child.kill(signal.SIGKILL)
        for worker in self.workers:
            worker.child.reap()
        self.selector.close()

    def _receive(self, worker: _Worker, now: float) -> Iterator[Message]:
        messages = worker.child.channel.receive()
        worker.heard = now
        if messages is None:
            self.selector.unregister(worker.child.channel.source)
            if not worker.done:
                why = _how_it_ended(worker.child.reap())
                raise RankLost(f"worker {worker.rank}", why, "the same command again")
            return
        for message in messages:
            if "failed" in message:
                raise _failure(worker.rank, message["failed"])
            if "done" in message:
                worker.done, worker.turns = True, message["done"]
            elif "lost" in message:
                worker.done = True
                if self.lost is None:
                    self.lost = f"worker {worker.rank} was cut off: {message['lost']}"
                    self.deadline = now + SILENCE_S + LAST_WORDS_S
            elif "beat" in message:
                worker.turns = message["beat"]
            elif worker.rank == 0:
                yield message

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


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _be(
    rank: int,
    workers: int,
    device: str,
    meeting: str,
    work: Callable[[Send], None],
    channel: Channel,
) -> int:
    """Be a worker."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_beat, args=(channel.send,), daemon=True).start()
    try:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # all workers are on this machine
        machine.take_device(device, rank)
        collectives.join(rank, workers, device, meeting)
        work(channel.send)
        channel.send({"done": collectives.turns()})
        return 0
    except collectives.PeerLost as error:
        channel.send({"lost": str(error)})
    except BaseException as error:
        channel.send({"failed": _as_message(error)})
    return 1


def _beat(send: Send) -> None:
    with suppress(OSError):
        while True:
            send({"beat": collectives.turns()})
            time.sleep(BEAT_S)


def _as_message(error: BaseException) -> Message:
    """An error as plain data."""
    mistakes = error.mistakes if isinstance(error, NormbenchError) else []
    return {
        "message": first_line(error),
        "mistakes": [astuple(mistake) for mistake in mistakes],
        "code": error.code if isinstance(error, NormbenchError) else 1,
        "oom": machine.out_of_memory(error),
        "trace": traceback.format_exc(),
    }


def _failure(rank: int, message: Message) -> Exception:
    """Make an error of this process from that of a worker, whose trace becomes its note."""
    error: Exception = MemoryError(message["message"])
    if not message["oom"]:
        mistakes = message["mistakes"] or [(f"worker {rank}", message["message"], "see error.txt")]
        error = WorkFailed([Mistake(*mistake) for mistake in mistakes], message["code"])
    error.add_note(message["trace"])
    return error
