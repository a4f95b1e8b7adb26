"""The lock on a directory, by the system's `flock`.

`filelock` would not do: it waits or fails without knowing who holds the lock, and truncates the
file before it has it, so the holder's process id, which our message names, could not stand there.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Self

from normbench.errors import InUse
from normbench.runtime import lacking, storage

LOCKS = Path("/proc/locks")  # a line for each lock: its process, the device and inode of its file


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
            holder = _holder(handle)
            os.close(handle)
            self._refuse(holder)
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

    def _refuse(self, holder: str) -> NoReturn:
        fix = f"the same command again when {holder} has ended"
        raise InUse(str(self.directory), f"is in use by {holder}", fix) from None


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


def _holder(handle: int) -> str:
    """Name the process that wrote its id into a lock file, in words."""
    text = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
    return f"process {text}" if text.isdecimal() else "another process"
