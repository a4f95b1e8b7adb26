"""Decodes image files: to one shape, on several threads, with a digest of their bytes."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from normbench.data._base import SPLITTING, PixelMoments
from normbench.data._images import REPLACE, Folder
from normbench.data._pixels import WIDE, orientation, reduce, viewed
from normbench.errors import DataError, FileRefused, shown
from normbench.runtime import watching

if TYPE_CHECKING:
    from PIL.Image import Image

    from normbench.data._base import Array

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP")  # none whose decoder runs a program
GREY = ("1", "L", "LA", *WIDE)
COLOUR = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
LARGEST_IMAGE = 25_000_000  # pixels
THREADS = 4
BLOCK = 1024  # images decoded at a time


@contextmanager
def decoding() -> Iterator[Executor]:
    """Give the threads that decode; what they decode may not be larger than it should."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oddities of metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with ThreadPoolExecutor(THREADS) as threads:
            yield threads


class ImageDecoder:
    """Decodes the files of a folder to one shape, and digests their bytes on the way.

    Args: side: of the central square after scaling; None takes images as they are.
    Raises: FileRefused if a file is damaged or no 8-bit image; DataError if side is None and the
        images differ in size.
    """

    def __init__(self, folder: Folder, side: int | None, threads: Executor) -> None:
        self.folder, self.side, self.threads = folder, side, threads
        self.files, _ = folder.rows
        self.digest = hashlib.sha256(f"{SPLITTING}\n{folder.sizes}\n".encode())
        self.moments = PixelMoments(3)

    def shape(self) -> tuple[int, int, int, int]:
        """Read all headers and return (N, H, W, C); C is 1 if every image is grey, else 3."""
        headers = []
        with watching.work(self._named("reading"), len(self.files)) as so_far:
            for header in self.threads.map(self._header, self.files):
                headers.append(header)
                so_far(len(headers))
        channels = 1 if all(mode in GREY for mode, _ in headers) else 3
        first = headers[0][1]
        if self.side:
            return len(self.files), self.side, self.side, channels
        for file, (_, size) in zip(self.files, headers, strict=True):
            if size != first:
                why = f"{shown(file)} is {_by(size)}, {shown(self.files[0])} is {_by(first)}"
                raise DataError("size", None, why, min(*size, *first))
        return len(self.files), first[1], first[0], channels

    def blocks(self, shape: tuple[int, int, int, int]) -> Iterator[Array]:
        """Yield the images in order, uint8 (n, H, W, C); `moments` gets those of train/."""
        import numpy as np

        self.moments = PixelMoments(shape[3])
        with watching.work(self._named("decoding"), len(self.files)) as so_far:
            for start in range(0, len(self.files), BLOCK):
                some = self.files[start : start + BLOCK]
                block = np.empty((len(some), *shape[1:]), np.uint8)
                digests = self.threads.map(self._decode, some, block)
                for number, (file, digest) in enumerate(zip(some, digests, strict=True), 1):
                    self.digest.update(os.fsencode(file) + b"\0" + digest)
                    so_far(start + number)
                self.moments.add(block[[file.startswith(self.folder.training) for file in some]])
                yield block

    def _named(self, work: str) -> str:
        return f"{work} {shown(self.folder.path.resolve().name)}"

    def _header(self, file: str) -> tuple[str, tuple[int, int]]:
        from PIL import Image

        path = self.folder.path / file
        with self._guarded(file), Image.open(path, formats=FORMATS) as image:
            reduce(image, self.side)
            mode, size = image.mode, image.size
            turned = orientation(image) > 4
        if mode not in GREY + COLOUR:
            raise self._refused(file, f"has pixels of mode {mode}, not of 8 or 16 bits")
        if size[0] * size[1] > LARGEST_IMAGE:
            raise self._refused(file, f"is {_by(size)}, more than {LARGEST_IMAGE:,} pixels")
        return mode, size[::-1] if turned else size

    def _decode(self, file: str, out: Array) -> bytes:
        """Fill `out` (H, W, C) with the pixels of a file and return the SHA-256 of its bytes."""
        import numpy as np
        from PIL import Image

        height, width, channels = out.shape
        with self._guarded(file):
            data = (self.folder.path / file).read_bytes()
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                shown_as, done = viewed(image, self.side)
                pixels = shown_as.convert("L" if channels == 1 else "RGB")
        if self.side:
            pixels = _central(pixels, self.side)
        if pixels.size != (width, height):
            raise self._refused(file, f"became {_by(pixels.size)} while it was read")
        out[:] = np.asarray(pixels).reshape(out.shape)
        # Pictures of which the pixels are taken as they stand have the digest of their bytes.
        return hashlib.sha256(data + done.encode()).digest()

    @contextmanager
    def _guarded(self, file: str) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:  # a decoder may raise anything when bytes are wrong
            raise self._refused(file, f"is damaged: {_reason(error)}") from error

    def _refused(self, file: str, why: str) -> FileRefused:
        return FileRefused(str(self.folder.path), f"{shown(file)} {why}", REPLACE)


def _central(image: Image, side: int) -> Image:
    """Scale the central square of an image to `side`, averaging over what a pixel covers."""
    from PIL.Image import Resampling

    width, height = image.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    box = (left, top, left + short, top + short)
    return image.resize((side, side), Resampling.BILINEAR, box)


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return f"it is none of {', '.join(FORMATS)}"
    return shown(error.strerror if isinstance(error, OSError) and error.strerror else error)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
