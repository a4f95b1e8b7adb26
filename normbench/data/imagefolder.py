"""Any folder of images in class folders, decoded once."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from normbench.data._base import About, Data, Dataset, Split, part
from normbench.data._cache import Cache, Decoded
from normbench.data._images import LAYOUT, Decoder, Folder, decoding, scan
from normbench.errors import FileRefused, shown
from normbench.options import option

if TYPE_CHECKING:
    from normbench.data._base import Array

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass(frozen=True)
class ImageFolder(Data):
    """Images of your own: a folder with train/ and test/ (or val/), each with a folder per class.

    The images are decoded once, into a checked copy under the data root. A part that is missing
    is cut from train/: for validation 5,000 images, or a tenth of fewer than 20,000; for the test
    a tenth. Grey images stay grey if all are; transparency is dropped.

    Args: path: the folder. label: name in tables and run names; null is the folder's. size: side
        of the images, scaled from their central squares; null wants all images of one size.
    Raises: DataError if path is null, or size is null and images differ in size; FileRefused if
        the folder is missing or laid out otherwise, or an image is damaged; MachineError if the
        copy cannot be written.
    """

    images: ClassVar[int | None] = None
    held: ClassVar[int] = 4 << 30  # bytes; a larger set stays in its file and is read when used

    path: str | None = None
    label: str | None = None
    size: int | None = option(None, low=1, high=4096)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label is not None and not LABEL.fullmatch(self.label):
            why = "is not 1 to 40 letters, digits, dots, dashes and underscores"
            raise self.error("label", self.label, why, _cleaned(self.label))

    def about(self) -> About:
        """Tell what is known; decodes the images if that was not done since they changed."""
        folder = self._folder()
        decoded = self._decoded(folder)
        _, height, width, channels = decoded.shape
        train, val, test = folder.sizes
        return About(
            self._name(folder),
            (channels, height, width),
            len(folder.classes),
            (self.taken(train), val, test),
            decoded.digest,
            here=True,
            cut=folder.missing,
        )

    def load(self) -> Dataset:
        """Read the decoded copy, or map it where it is larger than `held`; make it if need be."""
        folder = self._folder()
        decoded, images = self._mapped(folder)
        _, labels = folder.rows
        train, val, test = folder.sizes

        def piece(start: int, stop: int) -> Split:
            some = images[start:stop]
            return part(some if images.nbytes > self.held else some.copy(), labels[start:stop])

        return Dataset(
            self._name(folder),
            piece(0, self.taken(train)),
            piece(train, train + val),
            piece(train + val, train + val + test),
            tuple(map(shown, folder.classes)),
            decoded.mean,
            decoded.std,
        )

    def _folder(self) -> Folder:
        if self.path is None:
            raise self.error("path", None, "no folder is given", LAYOUT)
        return scan(Path(self.path))

    def _name(self, folder: Folder) -> str:
        return self.label or _cleaned(folder.path.resolve().name)

    def _cache(self, folder: Folder) -> Cache:
        place = folder.path.resolve()
        key = hashlib.sha256(f"{ascii(str(place))}\n{self.size}".encode()).hexdigest()
        return Cache(self.folder() / "cache" / f"{_cleaned(place.name)}-{key[:12]}")

    def _decoded(self, folder: Folder) -> Decoded:
        cache = self._cache(folder)
        known = cache.find(folder.fingerprint)
        if known is None:
            with cache.lock():
                known = cache.find(folder.fingerprint) or self._made(folder, cache)
        return known

    def _mapped(self, folder: Folder) -> tuple[Decoded, Array]:
        """The images; from a copy made anew if the one that is there is damaged."""
        cache = self._cache(folder)
        decoded = self._decoded(folder)
        images = cache.map(decoded)
        if images is None:
            with cache.lock():
                decoded = self._made(folder, cache)
                images = cache.map(decoded)
        if images is None:
            why = "images.npy is damaged as soon as it is written"
            raise FileRefused(str(cache.directory), why, "data.root=DIR    (on another disk)")
        return decoded, images

    def _made(self, folder: Folder, cache: Cache) -> Decoded:
        with decoding() as threads:
            decoder = Decoder(folder, self.size, threads)
            shape = decoder.shape()
            sha256 = cache.write(shape, decoder.blocks(shape))
        mean, std = decoder.moments.mean(), decoder.moments.std()
        digest = decoder.digest.hexdigest()
        decoded = Decoded(folder.fingerprint, digest, shape, mean, std, sha256)
        cache.describe(decoded)
        return decoded


def _cleaned(name: str) -> str:
    """A name that a folder may have, as like `name` as can be."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip("._-")[:40] or "images"
