"""Child processes that are forked from this one and exchange messages with it, a JSON line each.

The children hear no SIGINT and no SIGHUP, which their parent gets as well; however the parent
ends, the kernel ends them.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normbench.errors import MachineError
from normbench.runtime import lacking, machine

Message = dict[str, Any]


@dataclass
class Channel:
    """The two pipes of one side: messages are read from one and written to the other."""

    source: int
    sink: int
    _rest: bytes = b""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: Message) -> None:
        """Write a message as a whole, from whatever thread."""
        data = json.dumps(message).encode() + b"\n"
        with self._lock:
            while data:
                data = data[os.write(self.sink, data) :]

    def receive(self) -> list[Message] | None:
        """Wait for messages and return those that are complete; None if the other side is gone."""
        data = os.read(self.source, 1 << 16)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def messages(self) -> Iterator[Message]:
        """Yield messages until the other side is gone or has no more."""
        while (received := self.receive()) is not None:
            yield from received

    def finish(self) -> None:
        """Tell the other side that there is no more to read; a second call does nothing."""
        sink, self.sink = self.sink, -1  # before it is closed: Ctrl-C may come after that
        if sink >= 0:
            os.close(sink)

    def close(self) -> None:
        """Close both pipes; a second call does nothing."""
        self.finish()
        source, self.source = self.source, -1
        if source >= 0:
            os.close(source)


@dataclass
class Child:
    """A forked process as its parent sees it."""

    pid: int
    channel: Channel
    code: int | None = None  # once it is reaped; minus the signal that ended it

    def kill(self, by: signal.Signals) -> None:
        """Send the process a signal, if it is still there."""
        if self.code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, by)

    def busy(self) -> bool:
        """Tell whether one of its threads runs, waits for a core, or for a disk (Linux)."""
        with suppress(OSError):
            threads = [path.read_text() for path in Path(f"/proc/{self.pid}/task").glob("*/stat")]
            return any(stat.rpartition(")")[2].split()[0] in "RD" for stat in threads)
        return False

    def reap(self) -> int:
        """Wait for the process to end, close the pipes, and return its exit code."""
        self.channel.close()
        if self.code is None:
            try:
                self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:  # Ctrl-C came between its end and the line above
                self.code = 1
        return self.code


def fork(
    main: Callable[[Channel], int], siblings: Iterable[Child], dies_by: signal.Signals
) -> Child:
    """Start a child that does nothing but `main(channel)`, which returns its exit code.

    Args: siblings: the other children, whose pipes the new one closes, or they would never see
        that the parent has closed them. dies_by: the signal that it gets when the parent dies.
    Raises: MachineError if there may be no more processes or open files.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        child_source, sink = os.pipe()
        source, child_sink = os.pipe()
        pid = os.fork()
    except OSError as error:
        why = f"no more can be started: {(error.strerror or '').lower()}"
        raise MachineError("processes", why, lacking.raised(error) or "jobs=1") from error
    if pid:
        os.close(child_source)
        os.close(child_sink)
        return Child(pid, Channel(source, sink))
    gc.freeze()  # else each collection goes through all of torch, and copies those pages
    code = 1
    try:
        Channel(source, sink).close()
        for sibling in siblings:
            sibling.channel.close()
        machine.end_with_parent(dies_by)
        for sent in (signal.SIGINT, signal.SIGHUP):
            signal.signal(sent, signal.SIG_IGN)
        code = main(Channel(child_source, child_sink))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        os._exit(code)  # no clean-up of what belongs to the parent
