"""The lock on a directory, by the system's `flock`.

`filelock` would not do: it waits or fails without knowing who holds the lock, and truncates the
file before it has it, so the holder's process id, which our message names, could not stand there.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Self

from normbench.errors import InUse, shown
from normbench.runtime import lacking, storage, watching

LOCKS = Path("/proc/locks")  # a line for each lock: its process, the device and inode of its file
PROCESSES = Path("/proc")
NOTICE_S = 1.0  # a longer wait is told
STOPPED_S = 10.0  # how long a process that is stopped is waited for
COMMAND = 60  # characters of another process's command that are told


class Lock:
    """The right to write in a directory, held by one process until it leaves or dies.

    The file `.lock` stays behind; what counts is the system's lock on it, which ends with the
    process. The process id in it serves messages only.

    Raises: InUse, naming the process, if another one holds the lock; MachineError.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._handle: int | None = None

    def __enter__(self) -> Self:
        path = self.directory / ".lock"
        content = f"{os.getpid()}\n".encode()
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | storage.SAFE, storage.MODE)
        except OSError as error:
            raise storage.cannot_write(path, len(content), error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(handle, 0)
            os.pwrite(handle, content, 0)
        except BlockingIOError:
            pid = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
            os.close(handle)
            self._refuse(pid)
        except OSError as error:
            if error.errno in lacking.ERRORS:
                lacking.warn("no locks on this file system: let one command at a time train here")
                self._handle = handle
                return self
            os.close(handle)
            raise storage.cannot_write(path, len(content), error) from error
        self._handle = handle
        return self

    def __exit__(self, *_: object) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def _refuse(self, pid: str) -> NoReturn:
        known = pid.isdecimal()
        name = f"process {pid}" if known else "another process"
        # A number that holds no lock here is that of a process of another machine.
        command, stopped = _seen(pid) if known and held(self.directory) else ("", False)
        holder = name + ", which is stopped" * stopped + f" ({command})" * bool(command)
        fix = f"the same command again when {name} has ended"
        if stopped:
            fix = f"kill -CONT {pid}    (it goes on; kill -9 {pid} ends it)"
        refused = InUse(str(self.directory), f"is in use by {holder}", fix)
        refused.holder, refused.stopped = holder, stopped
        raise refused from None


class Wait:
    """Waits for the process that holds a lock: says for which, and leaves one that is stopped."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.said = False
        self.stopped: float | None = None  # since when

    def pause(self, refused: InUse, seconds: float) -> None:
        """Wait a little before the next try.

        Raises: InUse, as it is given, once its process has been stopped for `STOPPED_S`.
        """
        if self.over(refused.stopped):
            raise refused
        if not self.said and time.monotonic() - self.began >= NOTICE_S:
            self.said = True
            watching.note(f"waiting for {refused.holder}")
        time.sleep(seconds)

    def over(self, stopped: bool) -> bool:
        """Tell whether a process that is `stopped` now has been so for too long."""
        now = time.monotonic()
        self.stopped = (self.stopped or now) if stopped else None
        return self.stopped is not None and now - self.stopped >= STOPPED_S


def held(directory: Path) -> bool:
    """Tell whether a process of this machine works on a directory, without taking its lock.

    Where a file system knows no locks, nobody can tell: yes.
    """
    try:
        with open(directory / ".lock", "rb", opener=_unfollowed) as file:
            owner, number = file.read(20).strip(), os.fstat(file.fileno()).st_ino
    except OSError:
        return False
    if not owner.isdigit():
        return not owner
    try:
        locks = LOCKS.read_text().splitlines()
    except OSError:  # of Linux alone
        with suppress(ProcessLookupError):
            os.kill(int(owner), 0)
            return True
        return False
    # The device is not compared: some file systems give another one here than to `stat`.
    wanted = [owner.decode(), str(number)]
    return any([(words := line.split())[4], words[5].split(":")[-1]] == wanted for line in locks)


def _unfollowed(path: str, flags: int) -> int:
    return os.open(path, flags | storage.SAFE | os.O_NONBLOCK)


def _seen(pid: str) -> tuple[str, bool]:
    """Give the command of a process, in short, and whether it is stopped."""
    try:
        words = (PROCESSES / pid / "cmdline").read_text(errors="replace").rstrip("\0").split("\0")
        state = (PROCESSES / pid / "stat").read_text(errors="replace").rpartition(") ")[2][:1]
    except OSError:
        return "", False
    names = [Path(word).name for word in words]
    start = names.index("normbench") if "normbench" in names else 0
    return shown(" ".join([names[start], *words[start + 1 :]]), COMMAND), state in "Tt"
