"""Files that are known before they are read: by size and SHA-256, wherever they came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from normbench.errors import FileRefused, MachineError


@dataclass(frozen=True)
class Known:
    """A file as it must be: its name, its size in bytes and its SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Store:
    """A folder of known files, and the command that repairs it.

    A symbolic link is followed: what counts are the bytes that are read, and they are checked.
    """

    folder: Path
    repair: str

    def check(self, file: Known) -> None:
        """Look whether a file is there and has its size.

        Raises: FileRefused.
        """
        path = self.folder / file.name
        if not path.is_file():
            raise self.refused(file, f"is not in {self.folder}")
        size = path.stat().st_size
        if size != file.size:
            why = f"has {size:,} bytes instead of {file.size:,} in {self.folder}"
            raise self.refused(file, why)

    def read(self, file: Known) -> bytes:
        """Return the bytes of a file; reads no more than its size.

        Raises: FileRefused if it is missing, damaged or another one; MachineError if it cannot be
            read.
        """
        self.check(file)
        try:
            with (self.folder / file.name).open("rb") as stream:
                data = stream.read(file.size)
        except OSError as error:
            why = f"cannot be read in {self.folder}: {error.strerror}"
            raise MachineError(file.name, why, self.repair) from error
        self.check_digest(file, "has", data, file.sha256)
        return data

    def check_digest(self, file: Known, verb: str, data: bytes, right: str) -> None:
        """Compare the SHA-256 of `data`, which the file `has` or `unpacks to`.

        Raises: FileRefused.
        """
        found = hashlib.sha256(data).hexdigest()
        if found != right:
            why = f"{verb} SHA-256 {found[:8]}… instead of {right[:8]}…"
            raise self.refused(file, f"{why} in {self.folder}: it is damaged")

    def refused(self, file: Known, why: str) -> FileRefused:
        """Return the error for a file of the folder."""
        return FileRefused(file.name, why, self.repair)
