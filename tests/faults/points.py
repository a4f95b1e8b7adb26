"""Kills a process by SIGKILL where it passes a point of its file operations for the K-th time.

Nothing of it is in the package, so that it costs a normal run nothing: `faults.deaths` puts it into
forks of its own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

from normbench.runtime import storage

ATOMIC = ("open", "half", "fsync", "replace", "replaced", "synced")
POINTS = (*ATOMIC, "append", "half-append")


def install(fault: str) -> None:
    """Let this process, and those it forks, die at `POINT:K`; each counts for itself."""
    point, _, count = fault.partition(":")
    assert point in POINTS
    left = int(count)

    def passed(here: str) -> bool:
        nonlocal left
        left -= here == point
        return here == point and left == 0

    def dies(here: str) -> None:
        if passed(here):
            os.kill(os.getpid(), signal.SIGKILL)

    storage.os = _System(dies, passed)  # type: ignore[assignment]
    storage.open = lambda handle, mode: _File(handle, mode, passed)  # type: ignore[attr-defined]
    sync = storage.lacking.sync_folder

    def sync_folder(path: Any) -> None:
        dies("replaced")
        sync(path)
        dies("synced")

    storage.lacking.sync_folder = sync_folder  # type: ignore[assignment]


class _System:
    """The module `os` with points in what `storage` calls of it."""

    def __init__(self, dies: Callable[[str], None], passed: Callable[[str], bool]) -> None:
        self.dies, self.passed = dies, passed

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TRUNC:
            self.dies("open")
        return os.open(path, flags, mode)

    def fsync(self, handle: int) -> None:
        self.dies("fsync")
        os.fsync(handle)

    def replace(self, old: Any, new: Any) -> None:
        self.dies("replace")
        os.replace(old, new)

    def write(self, handle: int, data: bytes) -> int:
        self.dies("append")
        if self.passed("half-append"):
            os.write(handle, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return os.write(handle, data)


class _File:
    """A file of an atomic write, of which half may reach the disk."""

    def __init__(self, handle: int, mode: str, passed: Callable[[str], bool]) -> None:
        self.file = open(handle, mode)  # noqa: SIM115  (it is closed by `__exit__`)
        self.mode, self.passed = mode, passed

    def __enter__(self) -> Any:
        return self if "w" in self.mode else self.file

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def writelines(self, pieces: Iterable[bytes | memoryview]) -> None:
        data = b"".join(bytes(piece) for piece in pieces)
        if self.passed("half"):
            os.write(self.file.fileno(), data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        self.file.write(data)
