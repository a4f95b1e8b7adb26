"""The processes that train one run together on this machine: starts, supervises and ends them.

The parent trains nothing. It forks one child per worker, passes on the messages of worker 0, and
hears the signs of life of all.
"""

from __future__ import annotations

import os
import selectors
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import partial
from typing import Protocol

from normbench.errors import FileRefused, Mistake, NormbenchError, first_line
from normbench.runtime import collectives, machine, processes, signs
from normbench.runtime.processes import Channel, Child, Message
from normbench.runtime.signs import LAST_WORDS_S, RankLost, Sign, Watch


class Send(Protocol):
    """What sends a message to the parent."""

    def __call__(self, message: Message, data: bytes = b"") -> None:
        """Send a message; with data, wait until it has been taken."""


class WorkFailed(NormbenchError):
    """A worker raised an error, whose trace is a note of this one."""

    def __init__(self, mistakes: list[Mistake], code: int) -> None:
        Exception.__init__(self, *mistakes)
        self.mistakes, self.code = mistakes, code
        self.reason = "data" if code == FileRefused.code else "error"


@dataclass
class _Worker:
    """A child, and whether it has ended well."""

    rank: int
    child: Child
    done: bool = False


def together(
    workers: int,
    device: str,
    work: Callable[[Send], None],
    port: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Generator[Message, None, None]:
    """Run `work(send)` in `workers` processes joined in a group; yield what worker 0 sends.

    A message with data has it under `data`; worker 0 goes on when the next message is asked for.

    Args: device: of the run; worker k of `cuda` takes the k-th device. work: is called in each
        process; what the others send is dropped. The caller has not touched CUDA. port: of this
        machine, where they meet; None for a file. tick: is called every second or so.
    Raises: RankLost, naming the worker; WorkFailed with the error of a worker. No process is left
        when the generator ends, whatever ends it.
    """
    with tempfile.TemporaryDirectory(prefix="normbench-") as folder:
        meeting = f"file://{folder}/meeting" if port is None else f"tcp://127.0.0.1:{port}"
        shelf = os.memfd_create("normbench")  # memory of all, for what is too large for a pipe

        def at_work(channel: Channel) -> None:
            work(partial(_send, channel, shelf))

        mains = [partial(_be, rank, workers, device, meeting, at_work) for rank in range(workers)]
        team = _Team(mains, shelf)
        try:
            yield from team.messages(tick)
        finally:
            team.end()
            os.close(shelf)


class _Team:
    """The workers of a run as their parent sees them."""

    def __init__(self, mains: Sequence[Callable[[Channel], int]], shelf: int) -> None:
        self.selector = selectors.DefaultSelector()
        self.workers: list[_Worker] = []
        self.watch = Watch(len(mains), lambda rank: self.workers[rank].child.busy())
        self.shelf = shelf
        self.lost: str | None = None  # what a worker said that noticed the loss of another
        self.deadline = 0.0  # by which the lost one should have shown
        for rank, main in enumerate(mains):
            siblings = [worker.child for worker in self.workers]
            # One that waits for others hears no signal but this.
            child = processes.fork(main, siblings, dies_by=signal.SIGKILL)
            worker = _Worker(rank, child)
            self.workers.append(worker)
            self.watch.hear(rank, Sign(), time.monotonic())
            self.selector.register(child.channel.source, selectors.EVENT_READ, worker)

    def messages(self, tick: Callable[[], None]) -> Iterator[Message]:
        """Yield the messages of worker 0 until all are done."""
        while not all(worker.done for worker in self.workers):
            events = self.selector.select(signs.BEAT_S)
            now = time.monotonic()
            for key, _ in events:
                yield from self._receive(key.data, now)
            self.watch.check(now)
            if self.lost and now > self.deadline:
                break
            tick()
        if self.lost:
            raise RankLost("gpus", self.lost, signs.AGAIN)

    def end(self) -> None:
        """Kill whoever is left and wait for all."""
        for worker in self.workers:
            worker.child.kill(signal.SIGKILL)
        for worker in self.workers:
            worker.child.reap()
        self.selector.close()

    def _receive(self, worker: _Worker, now: float) -> Iterator[Message]:
        messages = worker.child.channel.receive()
        if messages is None:
            self.selector.unregister(worker.child.channel.source)
            if not worker.done:
                why = _how_it_ended(worker.child.reap())
                raise RankLost(f"worker {worker.rank}", why, signs.AGAIN)
            return
        for message in messages:
            if "failed" in message:
                raise _failure(worker.rank, message["failed"])
            if "sign" in message:
                sign = Sign(*message["sign"])
                self.watch.hear(worker.rank, sign, now)
                worker.done = worker.done or sign.done
                if "lost" in message and self.lost is None:
                    self.lost = f"worker {worker.rank} was cut off: {message['lost']}"
                    self.deadline = now + signs.SILENCE_S + LAST_WORDS_S
            elif worker.rank == 0:
                yield from self._passed(worker, message)

    def _passed(self, worker: _Worker, message: Message) -> Iterator[Message]:
        if not message.pop("shelved", False):
            yield message
            return
        with open(self.shelf, "rb", closefd=False) as file:
            file.seek(0)
            yield {**message, "data": file.read()}
        worker.child.channel.send({"taken": True})


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _be(
    rank: int,
    workers: int,
    device: str,
    meeting: str,
    work: Callable[[Channel], None],
    channel: Channel,
) -> int:
    """Be a worker."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_beat, args=(channel,), daemon=True).start()
    try:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # all workers are on this machine
        machine.take_device(device, rank)
        collectives.join(rank, workers, device, meeting)
        work(channel)
        signs.OWN.done = True
        channel.send({"sign": astuple(signs.OWN)})
        return 0
    except collectives.PeerLost as error:
        signs.OWN.done = True
        channel.send({"sign": astuple(signs.OWN), "lost": str(error)})
    except BaseException as error:
        channel.send({"failed": _as_message(error)})
    return 1


def _beat(channel: Channel) -> None:
    with suppress(OSError):
        while True:
            channel.send({"sign": astuple(signs.OWN)})
            time.sleep(signs.BEAT_S)


def _send(channel: Channel, shelf: int, message: Message, data: bytes = b"") -> None:
    """Send a message to the parent, its data by the shelf, which is free again on return."""
    if not data:
        channel.send(message)
        return
    with open(shelf, "wb", closefd=False) as file:
        file.seek(0)
        file.truncate()
        file.write(data)
    channel.send({**message, "shelved": True})
    channel.receive()


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
