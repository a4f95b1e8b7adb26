"""What a machine may lack: space, locks and the fsync of folders, open files, processes."""

from __future__ import annotations

import errno
import os
import resource
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LIMITS = {
    errno.EMFILE: (resource.RLIMIT_NOFILE, "-n"),
    errno.EAGAIN: (resource.RLIMIT_NPROC, "-u"),
}
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


def raised(error: OSError) -> str | None:
    """Say how to raise the limit of open files or processes that an error speaks of, if it does."""
    if error.errno not in LIMITS:
        return None
    kind, option = LIMITS[error.errno]
    soft, hard = resource.getrlimit(kind)
    if soft == hard:
        return f"ulimit {option}    (not yours to raise from {_count(soft)}: run less at once)"
    return f"ulimit {option} {_count(hard)}    (it is {_count(soft)})"


def _count(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
