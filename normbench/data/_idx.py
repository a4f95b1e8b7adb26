"""Gzipped IDX files, the format of MNIST and its relatives, unpacked within known bounds."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normbench.data._known import Known, Store

if TYPE_CHECKING:
    from normbench.data._base import Array


@dataclass(frozen=True)
class Packed(Known):
    """A gzipped IDX file, the SHA-256 of what it unpacks to if known, and its array's shape.

    An IDX file is a header of 32-bit big-endian words, the magic number 0x0800 + axes and the
    length of each axis, followed by one byte per element.
    """

    unpacked_sha256: str
    shape: tuple[int, ...]


def read(store: Store, file: Packed) -> Array:
    """Return the array of a gzipped IDX file, uint8 of the expected shape, read-only.

    Reads and unpacks no more than the expected number of bytes, whatever the file holds.

    Raises: FileRefused if the file is missing, damaged, or another one; MachineError if it cannot
        be read.
    """
    import numpy as np

    header = 4 + 4 * len(file.shape)
    data = _unpacked(store, file, store.read(file), header + math.prod(file.shape))
    words = tuple(int.from_bytes(data[at : at + 4], "big") for at in range(0, header, 4))
    if words != (0x800 + len(file.shape), *file.shape):
        found, right = _spelt(words), _spelt((0x800 + len(file.shape), *file.shape))
        raise store.refused(file, f"begins with {found} instead of {right}")
    if file.unpacked_sha256:
        store.check_digest(file, "unpacks to", data, file.unpacked_sha256)
    return np.frombuffer(data, np.uint8, offset=header).reshape(file.shape)


def _unpacked(store: Store, file: Packed, packed: bytes, length: int) -> bytes:
    gzip = zlib.decompressobj(wbits=31)
    try:
        data = gzip.decompress(packed, length + 1)
    except zlib.error as error:
        raise store.refused(file, f"is not a gzip file in {store.folder}: {error}") from error
    if len(data) == length and gzip.eof:
        return data
    why = f"unpacks to {len(data):,} bytes instead of {length:,}"
    if len(data) > length:
        why = f"unpacks to more than {length:,} bytes"
    elif not gzip.eof:
        why = f"breaks off after {len(data):,} unpacked bytes"
    raise store.refused(file, f"{why} in {store.folder}")


def _spelt(words: tuple[int, ...]) -> str:
    magic, *shape = words
    return f"{magic:#x} " + "x".join(map(str, shape))
