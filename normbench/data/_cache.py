"""The decoded copy of a set of image files: an array and what is known of it, both checked."""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench import files
from normbench.errors import FileRefused, InUse

if TYPE_CHECKING:
    from normbench.data._base import Array

LONGEST = 1 << 16  # bytes of a description; a longer one is none of ours
WAIT_S = 0.2  # between two looks whether another process has finished the copy


@dataclass(frozen=True)
class Decoded:
    """What is known of a decoded copy.

    `source`: fingerprint of the files it was made of; `digest`: of their content and its order;
    `shape`: (N, H, W, C); `mean`, `std`: per channel, of the training images; `sha256`: of the
    array's file.
    """

    source: str
    digest: str
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str

    def __post_init__(self) -> None:
        numbers = [*self.mean, *self.std]
        right = [type(each) is int for each in self.shape]
        right += [type(each) is float for each in numbers]
        right += [type(each) is str for each in (self.source, self.digest, self.sha256)]
        if not all(right) or len(self.shape) != 4 or len(numbers) != 2 * self.shape[3]:
            raise ValueError("is not the description of a decoded copy")


@dataclass(frozen=True)
class Cache:
    """A directory with one decoded copy: `images.npy` and its description, `images.json`.

    Files appear whole or not at all. The description holds digests of itself and of the array.

    Raises: MachineError if something cannot be written; FileRefused if a file is a symbolic link.
    """

    directory: Path

    def find(self, source: str) -> Decoded | None:
        """Return what is known of the copy; None if there is no sound one of `source`."""
        try:
            tree = files.read_json(self.directory / "images.json", LONGEST)
            content = tree["content"]
            lists = {key: tuple(content[key]) for key in ("shape", "mean", "std")}
            decoded = Decoded(**{**content, **lists})
            sound = tree["sha256"] == _digest(content) and decoded.source == source
            whole = (self.directory / "images.npy").stat().st_size == _size(decoded.shape)
        except (FileRefused, OSError, ValueError, TypeError, KeyError):
            return None
        return decoded if sound and whole else None

    def map(self, decoded: Decoded) -> Array | None:
        """Return the array (N, H, W, C), mapped from its file; None if the file is damaged.

        Changes to the array stay in memory and never reach the file.
        """
        import numpy as np

        start = len(_header(decoded.shape))
        with suppress(OSError, ValueError), (self.directory / "images.npy").open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == decoded.sha256:
                return np.memmap(stream, np.uint8, "c", start, decoded.shape)
        return None

    def write(self, shape: tuple[int, ...], blocks: Iterable[Array]) -> str:
        """Write the array from consecutive blocks of it; return the SHA-256 of its file."""
        digest = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            for piece in chain([_header(shape)], (block.tobytes() for block in blocks)):
                digest.update(piece)
                yield piece

        files.write_pieces(self.directory / "images.npy", pieces(), _size(shape))
        return digest.hexdigest()

    def describe(self, decoded: Decoded) -> None:
        """Write the description, which makes the array that was written before it valid."""
        content = asdict(decoded)
        text = json.dumps({"content": content, "sha256": _digest(content)}, indent=1)
        files.write_atomic(self.directory / "images.json", text)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Wait until no other process makes the copy, and remove what a killed one left behind."""
        files.make_directory(self.directory)
        with ExitStack() as held:
            while True:
                with suppress(InUse):
                    held.enter_context(files.Lock(self.directory))
                    break
                time.sleep(WAIT_S)
            files.remove_stale(self.directory)
            yield


def _header(shape: tuple[int, ...]) -> bytes:
    """The first bytes of an .npy file of uint8."""
    from numpy.lib import format as npy

    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _size(shape: tuple[int, ...]) -> int:
    return len(_header(shape)) + math.prod(shape)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
