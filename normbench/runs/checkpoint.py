"""Checkpoints: tensors and plain facts in one file, in the safetensors layout, with a digest.

A file is 8 bytes with the length of the header, the header as JSON, then the bytes of the tensors.
The header's metadata has one entry, `normbench`, so that equal content is equal bytes. It is JSON
with the SHA-256 of the file, computed with zeros in the place of its own digits, a format number,
and `about`, the facts. Nothing in a file can run code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import safetensors

from normbench.errors import shown
from normbench.runtime import storage

if TYPE_CHECKING:
    from torch import Tensor

NAME = "checkpoint.safetensors"
FORMAT = 1
FILE_BYTES = 2**36  # more is not read back
HEADER_BYTES = 2**24
_ZEROS = b"0" * 64
_DIGEST = re.compile(rb'{"normbench":"{\\"sha256\\": \\"([0-9a-f]{64})\\"')


class Checkpoint(NamedTuple):
    """What a file holds: tensors by name, on the CPU, and plain facts about them."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and facts atomically; a reader sees the old file or the new one.

    Args: tensors: contiguous, on the CPU, none a view of another. about: what JSON can hold.
    Raises: MachineError if the storage fails; FileRefused if `path` is a symbolic link.
    """
    from safetensors.torch import save  # here, for states are read without torch

    entry = {"sha256": _ZEROS.decode(), "format": FORMAT, "about": about}
    data = save(dict(tensors), {"normbench": json.dumps(entry, allow_nan=False)})
    place = _digits(data)
    assert place is not None
    rest = memoryview(data)[place + len(_ZEROS) :]  # which may be large: not a copy
    pieces: list[bytes | memoryview] = [data[:place], storage.digest(data).encode(), rest]
    storage.write_pieces(path, pieces, len(data))


def read(path: Path) -> Checkpoint:
    """Read a file after a check of its lengths, its digest and its layout.

    Raises: FileRefused if it is missing, a link, no such file, damaged, or of another format.
    """
    from safetensors.torch import load  # here, for states are read without torch

    data, about = _checked(path)
    return Checkpoint(load(data), about)


def read_about(path: Path) -> dict[str, Any]:
    """Read the facts alone, after the same checks and with the same errors, without torch."""
    return _checked(path)[1]


def _checked(path: Path) -> tuple[bytes, dict[str, Any]]:
    data = storage.read_bytes(path, FILE_BYTES)
    header = _header(path, data)
    place = _digits(data)
    if place is None:
        raise storage.damaged(path, "is no checkpoint of normbench: it has no digest")
    end = place + len(_ZEROS)
    if storage.digest(b"".join([data[:place], _ZEROS, data[end:]])).encode() != data[place:end]:
        raise storage.damaged(path, "has changed since it was written: its digest is another")
    try:
        entry = json.loads(json.loads(header)["__metadata__"]["normbench"])
        number, about = entry["format"], entry["about"]
        safetensors.deserialize(data)  # type: ignore[no-untyped-call]  # checks offsets and shapes
    except (ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError) as error:
        raise storage.damaged(path, f"is not a checkpoint: {shown(error)}") from None
    if number != FORMAT:
        raise storage.damaged(path, f"has format {shown(number)}, this normbench reads {FORMAT}")
    if not isinstance(about, dict):
        raise storage.damaged(path, "is not a checkpoint: its facts are no JSON object")
    return data, about


def _header(path: Path, data: bytes) -> bytes:
    """Return the header of a file whose length is that which its header says."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > HEADER_BYTES:
        raise storage.damaged(path, f"is not a safetensors file: {len(data):,} bytes, no header")
    if len(data) < 8 + length:
        why = f"is cut off: it has {len(data):,} bytes, its header alone ends at {8 + length:,}"
        raise storage.damaged(path, why)
    header = data[8 : 8 + length]
    ends = [int(end) for end in re.findall(rb'"data_offsets":\[\d{1,18},(\d{1,18})\]', header)]
    size = 8 + length + max(ends, default=0)
    if len(data) != size:
        raise storage.damaged(path, f"has {len(data):,} bytes, its header says {size:,}")
    return header


def _digits(data: bytes) -> int | None:
    """Return where the digits of the digest stand."""
    found = _DIGEST.search(data, 8, 8 + int.from_bytes(data[:8], "little"))
    return found and found.start(1)
