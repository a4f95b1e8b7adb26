"""File systems that lack space, locks, or the fsync of folders as those of networks may."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ERRORS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@cache
def warn(text: str) -> None:
    """Say on stderr what is not promised, once a process."""
    with suppress(OSError, ValueError, AttributeError):  # a closed stream
        sys.stderr.write(f"normbench: warning: {text}\n")


def sync_folder(folder: Path) -> None:
    """Let the names in a folder outlast a power cut, where its file system can.

    Raises: OSError.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in ERRORS:
            raise
        warn("no fsync of folders here: a power cut may bring back the file before the last")
    finally:
        os.close(handle)


def free(path: Path) -> int:
    """Tell how many bytes this user may still write where `path` lies; 0 if that is unknown."""
    for folder in (path, *path.parents):
        with suppress(OSError):
            room = os.statvfs(folder)
            return room.f_bavail * room.f_frsize
    return 0
