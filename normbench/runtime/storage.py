"""Files that a crash cannot tear and a stranger cannot bend: atomic writes, checked reads.

A failure of the storage is a MachineError that names the file, and where there is no more space the
bytes needed and free. A file that is missing, damaged or a symbolic link is a FileRefused.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from io import BufferedReader
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn

from normbench.errors import FileRefused, MachineError, NormbenchError, pasted
from normbench.runtime import lacking

MODE = 0o644  # of new files, less the umask
FOLDER_MODE = 0o755
DEPTH = 10  # levels of nesting in a YAML file or an override at most
# Follow no link, and hand nothing down to a program that is started.
SAFE = os.O_NOFOLLOW | os.O_CLOEXEC
_STALE = re.compile(r".+\.tmp-\d+")
_QUOTED = re.compile(r"""\\.|'(?:\\.|[^\\'])*'|"(?:\\.|[^\\"])*\"""", re.DOTALL)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader, also one after a crash, sees the old bytes or the new ones.

    Raises: MachineError if the storage fails; FileRefused if `path` is a symbolic link.
    """
    content = data.encode() if isinstance(data, str) else data
    write_pieces(path, [content], len(content))


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview], size: int) -> None:
    """Write a file as `write_atomic` does, from consecutive pieces of `size` bytes in all.

    Raises: MachineError if the storage fails; FileRefused if `path` is a symbolic link.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        if path.is_symlink():
            raise _link(path)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | SAFE, MODE)
        with open(handle, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(handle)
        os.replace(temporary, path)
        lacking.sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, size, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


class Appended:
    """A file that grows by whole records, each handed to the system in one `write`.

    Args: size: to which it is cut first, if it is given.
    Raises: MachineError if the storage fails; FileRefused if `path` is a symbolic link.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path = path
        self._handle: int | None = None
        try:
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | SAFE, MODE)
            if size is not None:
                os.ftruncate(self._handle, size)
        except OSError as error:
            raise cannot_write(path, 0, error) from error

    def write(self, data: bytes) -> None:
        """Append `data`; it has reached the system, not yet the disk, when this returns."""
        assert self._handle is not None
        try:
            # A disk that fills up takes a part without complaint and fails on the rest.
            while data:
                data = data[os.write(self._handle, data) :]
        except OSError as error:
            raise cannot_write(self.path, len(data), error) from error

    def sync(self) -> None:
        """Bring everything to the disk."""
        assert self._handle is not None
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise cannot_write(self.path, 0, error) from error

    def close(self) -> None:
        """Bring everything to the disk and close; a second call does nothing."""
        if self._handle is not None:
            try:
                self.sync()
            finally:
                os.close(self._handle)
                self._handle = None


def make_directory(path: Path) -> None:
    """Make a directory and its parents where they are missing.

    Raises: MachineError if the storage fails.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(FOLDER_MODE, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, 0, error) from error


def names(directory: Path) -> list[str]:
    """List the files of a directory; none if it does not exist.

    Raises: FileRefused if it cannot be read, or if it, its parent or a file in it is a link.
    """
    try:
        for folder in (directory.parent, directory):
            if folder.is_symlink():
                raise _link(folder)
        with os.scandir(directory) as entries:
            found = list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _cannot_read(directory, error) from None
    for entry in found:
        if entry.is_symlink():
            raise _link(Path(entry.path))
    return sorted(entry.name for entry in found)


def remove_stale(directory: Path) -> None:
    """Remove what atomic writes left behind that were cut off; call with the lock held."""
    for name in filter(_STALE.fullmatch, names(directory)):
        remove(directory / name)


def remove(path: Path) -> None:
    """Remove a file if it is there.

    Raises: MachineError if the storage fails.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, 0, error) from error


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a plain file of at most `limit` bytes.

    Raises: FileRefused if it is missing, unreadable, larger, a link or no plain file.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1) if size <= limit else b""  # it may be growing
    if max(size, len(data)) > limit:
        raise damaged(path, f"has {size:,} bytes, more than the {limit:,} that are read")
    return data


def read_json(path: Path, limit: int) -> Any:
    """Read a JSON file of at most `limit` bytes, without NaN, infinity or endless nesting.

    Raises: FileRefused as `read_bytes` does, or if the file is not JSON.
    """
    data = read_bytes(path, limit)
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise damaged(path, "is nested too deep") from None
    except ValueError as error:
        raise damaged(path, f"is not JSON: {error}") from None


def write_yaml(path: Path, tree: Any) -> str:
    """Write plain values as YAML, atomically and in ASCII, and return the text.

    Raises: as `write_atomic` does.
    """
    import yaml  # here, since what only looks at states does not need it

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the one in C is ten times as fast
    text: str = yaml.dump(tree, Dumper=dumper, sort_keys=False)
    write_atomic(path, text)
    return text


def read_yaml(path: Path, limit: int) -> Any:
    """Read a YAML file of at most `limit` bytes: one document without aliases and tags.

    Raises: FileRefused as `read_bytes` does, or if the file is not such YAML, or nested too deep.
    """
    import yaml

    data = read_bytes(path, limit)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
    depth = 0
    try:
        for event in yaml.parse(data, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH:
                raise damaged(path, "is nested too deep")
            if getattr(event, "anchor", None) or getattr(event, "tag", None):
                raise damaged(path, "holds an alias or a tag")
        return yaml.load(data, Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Parsers look ahead: a limit of their own can be met before the first event is seen.
        if isinstance(error, RecursionError) or nesting(data.decode(errors="replace")) > DEPTH:
            raise damaged(path, "is nested too deep") from None
        raise damaged(path, f"is not YAML: {str(error).splitlines()[0]}") from None


def nesting(text: str) -> int:
    """Count how deep brackets of any kind nest in `text`; those in quotes do not count."""
    steps = ((char in "[{(") - (char in "]})") for char in _QUOTED.sub("", text))
    return max(accumulate(steps, initial=0))


def digest(what: bytes | Path) -> str:
    """Return the SHA-256 of bytes, or of the content of a file, as 64 hex digits.

    Raises: FileRefused if the file is missing, unreadable, a link or no plain file.
    """
    if isinstance(what, bytes):
        return hashlib.sha256(what).hexdigest()
    with _opened(what) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(path: Path, why: str) -> FileRefused:
    """Return the error for a file of a run that is not as normbench wrote it."""
    fix = f"rm -r {pasted(path.parent)}    (then the same command again)"
    return FileRefused(str(path), why, fix)


def _opened(path: Path) -> BufferedReader:
    """Open a plain file for reading; a pipe or device in its place does not make us wait."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | SAFE)
    except FileNotFoundError:
        raise damaged(path, "is missing") from None
    except OSError as error:
        raise _cannot_read(path, error) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise damaged(path, "is not a plain file")
    return open(handle, "rb")


def cannot_write(path: Path, needed: int, error: OSError) -> NormbenchError:
    """Return the error for a file that could not be written, of which `needed` bytes were left."""
    if error.errno == errno.ELOOP:
        return _link(path)
    full = error.errno in lacking.SPACE
    room = f" ({needed:,} bytes needed, {lacking.free(path):,} free)" if full else ""
    place = "with more space" if full else "in which you may write"
    fix = lacking.raised(error) or f"outputs=DIR, data.root=DIR or -o FILE    (a folder {place})"
    return MachineError(str(path), f"cannot be written: {_said(error)}{room}", fix)


def _cannot_read(path: Path, error: OSError) -> FileRefused:
    if error.errno == errno.ELOOP:
        return _link(path)
    usual = f"ls -ld {pasted(path)}    (it must be there, and yours to read)"
    return FileRefused(str(path), f"cannot be read: {_said(error)}", lacking.raised(error) or usual)


def _said(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _link(path: Path) -> FileRefused:
    fix = f"rm {pasted(path)}    (then the same command again)"
    return FileRefused(str(path), "is a symbolic link, which is refused here", fix)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
