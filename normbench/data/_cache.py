"""The decoded copy of a set: its images, labels, and what is known of them, all checked."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from normbench.data._base import VerifiedFile
from normbench.errors import FileRefused, InUse, pasted
from normbench.runtime import storage, watching
from normbench.runtime.lock import Lock, Wait

if TYPE_CHECKING:
    from normbench.data._base import Array

LONGEST = 1 << 16  # bytes of a description; a longer one is none of ours
PIECE = 1 << 20  # bytes
WAIT_S = 0.2  # between two looks whether another process has finished the copy


@dataclass(frozen=True)
class Decoded:
    """Facts of a decoded copy.

    `source`: fingerprint of the files it was made of; `digest`: of their content and its order;
    `shape`: (N, H, W, C); `mean`, `std`: per channel, of the training images; `sha256`: of the
    images' file; `labels`: of the labels' file, null where labels are known from elsewhere.
    """

    source: str
    digest: str
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str
    labels: str | None = None

    def __post_init__(self) -> None:
        numbers = [*self.mean, *self.std]
        right = [type(side) is int for side in self.shape]
        right += [type(number) is float for number in numbers]
        right += [type(text) is str for text in (self.source, self.digest, self.sha256)]
        right += [type(self.labels) in (str, type(None))]
        if not all(right) or len(self.shape) != 4 or len(numbers) != 2 * self.shape[3]:
            raise ValueError("is not the description of a decoded copy")


@dataclass(frozen=True)
class Cache:
    """A directory with one decoded copy: `images.npy`, `labels.npy`, and of both `images.json`.

    Files appear whole or not at all. The description holds digests of itself and of the arrays.

    Raises: MachineError if something cannot be written; FileRefused if a file is a symbolic link.
    """

    directory: Path

    def find(self, source: str) -> Decoded | None:
        """Return what is known of the copy; None if there is no sound one of `source`."""
        try:
            tree = storage.read_json(self.directory / "images.json", LONGEST)
            content = tree["content"]
            lists = {key: tuple(content[key]) for key in ("shape", "mean", "std")}
            decoded = Decoded(**{**content, **lists})
            sound = tree["sha256"] == _digest(content) and decoded.source == source
            whole = (self.directory / "images.npy").stat().st_size == _size(decoded.shape)
        except (FileRefused, OSError, ValueError, TypeError, KeyError):
            return None
        return decoded if sound and whole else None

    def known(self, source: str, make: Callable[[Cache], Decoded]) -> Decoded:
        """Return what is known of the copy of `source`; have it made if there is no sound one."""
        decoded = self.find(source)
        if decoded is None:
            with self.lock():
                decoded = self.find(source) or make(self)
        return decoded

    def opened(
        self, source: str, make: Callable[[Cache], Decoded]
    ) -> tuple[Decoded, Array, Array | None]:
        """Return what is known of the copy, its images (N, H, W, C), and its labels (N,) if any.

        They are mapped from their files; changes to them stay in memory. A copy that is damaged
        is made again.

        Raises: FileRefused if it is damaged even then.
        """
        decoded = self.known(source, make)
        arrays = self._arrays(decoded)
        if arrays is None:
            with self.lock():
                decoded = make(self)
                arrays = self._arrays(decoded)
        if arrays is None:
            why = "images.npy is damaged as soon as it is written"
            raise FileRefused(str(self.directory), why, "data.root=DIR    (on another disk)")
        return decoded, *arrays

    def verify(self, source: str) -> Iterator[VerifiedFile]:
        """Read the files of the copy of `source`, if there is one, and yield those that are sound.

        Raises: FileRefused naming the first that is not.
        """
        decoded = self.find(source)
        for name, shape, sha256 in _files(decoded) if decoded else []:
            file = f"{self.directory.name}/{name}"
            if self._mapped(name, shape, sha256) is None:
                fix = f"rm -r {pasted(self.directory)}    (it is made again when it is needed)"
                raise FileRefused(file, "is not what was decoded", fix)
            yield VerifiedFile(file, (self.directory / name).stat().st_size, sha256)

    def write(
        self, shape: tuple[int, ...], blocks: Iterable[Array], name: str = "images.npy"
    ) -> str:
        """Write an array from consecutive blocks of it; return the SHA-256 of its file."""
        digest = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            for piece in chain([_header(shape)], (block.tobytes() for block in blocks)):
                digest.update(piece)
                yield piece

        storage.write_pieces(self.directory / name, pieces(), _size(shape))
        return digest.hexdigest()

    def describe(self, decoded: Decoded) -> None:
        """Write the description, which makes the array that was written before it valid."""
        content = asdict(decoded)
        text = json.dumps({"content": content, "sha256": _digest(content)}, indent=1)
        storage.write_atomic(self.directory / "images.json", text)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Wait until no other process makes the copy, and remove what a killed one left behind.

        Raises: InUse if that process is stopped.
        """
        storage.make_directory(self.directory)
        wait = Wait()
        with ExitStack() as held:
            while True:
                try:
                    held.enter_context(Lock(self.directory))
                    break
                except InUse as refused:
                    wait.pause(refused, WAIT_S)
            storage.remove_stale(self.directory)
            yield

    def _arrays(self, decoded: Decoded) -> tuple[Array, Array | None] | None:
        """Return the images, and the labels if the copy has some; None if a file is damaged."""
        arrays = [self._mapped(*file) for file in _files(decoded)]
        whole = [array for array in arrays if array is not None]
        if len(whole) < len(arrays):
            return None
        return whole[0], whole[1] if len(whole) > 1 else None

    def _mapped(self, name: str, shape: tuple[int, ...], sha256: str) -> Array | None:
        import numpy as np

        start = len(_header(shape))
        with suppress(OSError, ValueError), (self.directory / name).open("rb") as stream:
            if _checked(stream, f"checking {name}", _size(shape)) == sha256:
                try:
                    return np.memmap(stream, np.uint8, "c", start, shape)
                except OSError:  # a file system that maps no files: it takes memory instead
                    stream.seek(start)
                    return np.fromfile(stream, np.uint8, math.prod(shape)).reshape(shape)
        return None


def _files(decoded: Decoded) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Yield the name, the array's shape and the SHA-256 of each file of a copy."""
    yield "images.npy", decoded.shape, decoded.sha256
    if decoded.labels is not None:
        yield "labels.npy", decoded.shape[:1], decoded.labels


def _header(shape: tuple[int, ...]) -> bytes:
    """The first bytes of an .npy file of uint8."""
    from numpy.lib import format as npy

    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _size(shape: tuple[int, ...]) -> int:
    return len(_header(shape)) + math.prod(shape)


def _checked(stream: BinaryIO, what: str, size: int) -> str:
    """Return the SHA-256 of a file, and tell on the way how far it is."""
    digest, done = hashlib.sha256(), 0
    with watching.work(what, size) as so_far:
        while piece := stream.read(PIECE):
            digest.update(piece)
            done += len(piece)
            so_far(done)
    return digest.hexdigest()


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
