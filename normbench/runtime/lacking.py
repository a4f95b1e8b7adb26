"""File systems that lack locks or the fsync of folders, such as those of networks."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

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
