"""Archives of fixed records, as CIFAR comes in its binary version: read in memory, never unpacked.

The version that torchvision reads is pickled, so that reading it could run code.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, cast

from normbench.data._known import Known, Store
from normbench.errors import shown

if TYPE_CHECKING:
    from normbench.data._base import Array

SPARE = 1 << 20  # bytes of an archive that are not asked for: its headers, a read-me, names


def records(store: Store, archive: Known, counts: Mapping[str, int], size: int) -> Array:
    """Return the records of the members of a .tar.gz, one after the other: uint8 (N, size).

    Members are taken by their exact names; nothing is written, and a member with another name is
    passed over, wherever that name would lead.

    Args: counts: the number of records of each member; size: bytes of a record.
    Raises: FileRefused if the archive is missing, damaged, lacks a member, has one of another
        size, or unpacks to more than it should; MachineError if it cannot be read.
    """
    import numpy as np

    sizes = {name: count * size for name, count in counts.items()}
    try:
        found = _taken(store.read(archive), sizes)
    except ValueError as error:
        raise store.refused(archive, f"{shown(error)}, in {store.folder}") from error
    rows = np.empty((sum(counts.values()), size), np.uint8)
    start = 0
    for name, count in counts.items():
        some = np.frombuffer(found.pop(name), np.uint8)
        rows[start : start + count] = some.reshape(count, size)
        start += count
    return rows


def _taken(packed: bytes, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Return the members that `sizes` names; ValueError says why it cannot."""
    found: dict[str, bytes] = {}
    unpacked = gzip.GzipFile(fileobj=io.BytesIO(packed))
    limited = cast(IO[bytes], _Limited(unpacked, sum(sizes.values()) + SPARE))
    try:
        with tarfile.open(fileobj=limited, mode="r|") as tar:
            for member in tar:
                if member.name in sizes and member.name not in found:
                    found[member.name] = _content(tar, member, sizes[member.name])
                if len(found) == len(sizes):  # what comes after them is of no use
                    return found
    except _Refused:
        raise
    except (tarfile.TarError, zlib.error, EOFError, OSError, OverflowError, ValueError) as error:
        raise ValueError(f"is not a complete .tar.gz: {error}") from error
    raise ValueError(f"has no member {min(sizes.keys() - found.keys())}")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> bytes:
    if not member.isreg():
        raise _Refused(f"has a member {member.name} that is not a plain file")
    if member.size != size:
        raise _Refused(f"has a member {member.name} of {member.size:,} bytes instead of {size:,}")
    stream = tar.extractfile(member)
    assert stream
    return stream.read(size)


class _Refused(ValueError):
    """Refuses what the archive holds, though it can be read."""


class _Limited:
    """Reads up to `limit` bytes of a stream; one that goes on is refused."""

    def __init__(self, stream: gzip.GzipFile, limit: int) -> None:
        self.stream, self.left, self.limit = stream, limit, limit

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        data = self.stream.read(min(size, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise _Refused(f"unpacks to more than {self.limit:,} bytes")
        return data
