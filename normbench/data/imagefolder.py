"""Any folder of images in class folders, decoded once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from normbench.data._base import Data, Dataset, DatasetInfo, VerifiedFile, cut
from normbench.data._cache import Cache, Decoded
from normbench.data._decoder import ImageDecoder, decoding
from normbench.data._images import LAYOUT, Folder, scan
from normbench.errors import FileRefused, counted, shown
from normbench.parts.options import option

if TYPE_CHECKING:
    from normbench.data._base import Array

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass(frozen=True)
class ImageFolder(Data):
    """Images of your own: a folder with train/ and test/ (or val/), each with a folder per class.

    Also valid/ or validation/, in any case, and a folder with nothing but a folder per class. The
    images are decoded once, into a checked copy under the data root, as viewers show them (turned
    as their EXIF says, on white, 16 bits scaled to 8). A part that is missing is cut from train/:
    for validation 5,000 images, or a tenth of fewer than 20,000; for the test a tenth. Grey images
    stay grey if all are.

    Args: path: the folder. label: name in tables and run names; null is the folder's. size: side
        of the images, scaled from their central squares; null wants all images of one size.
    Raises: DataError if path is null, or size is null and images differ in size; FileRefused if
        the folder is missing or laid out otherwise, a class is left without a training image, or
        an image is damaged; MachineError if the copy cannot be written.
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

    def about(self) -> DatasetInfo:
        """Tell what is known; decodes the images if that was not done since they changed."""
        folder = self._folder()
        decoded = self._cache(folder).known(folder.fingerprint, partial(self._made, folder))
        _, height, width, channels = decoded.shape
        train, val, test = folder.sizes
        return DatasetInfo(
            self._name(folder),
            (channels, height, width),
            len(folder.classes),
            (self.taken(train, len(folder.classes)), val, test),
            decoded.digest,
            here=True,
            cut=folder.missing,
            where=f"in {shown(folder.path)}",
            lacking=(*folder.lacking, *folder.unused),
        )

    def load(self) -> Dataset:
        """Read the decoded copy, or map it where it is larger than `held`; make it if need be."""
        folder = self._folder()
        make = partial(self._made, folder)
        decoded, images, _ = self._cache(folder).opened(folder.fingerprint, make)
        if images.nbytes <= self.held:
            images = images.copy()
        parts, names = cut(images, folder.rows[1], folder.sizes), map(shown, folder.classes)
        whole = Dataset(self._name(folder), *parts, tuple(names), decoded.mean, decoded.std)
        return whole.first(self.taken(len(whole.train)))

    def verify(self) -> Iterator[VerifiedFile]:
        """Read the images, and compare them with the decoded copy if there is one."""
        folder = self._folder()
        cache, files = self._cache(folder), folder.rows[0]
        copy = list(cache.verify(folder.fingerprint))
        make = partial(self._made, folder)
        decoded, images, _ = cache.opened(folder.fingerprint, make)
        if copy:  # one that was made just now is what the files hold
            self._compare(folder, decoded, images)
        size = sum((folder.path / file).stat().st_size for file in files)
        yield VerifiedFile(counted(len(files), "image"), size, decoded.digest)
        yield from copy

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

    def _compare(self, folder: Folder, decoded: Decoded, images: Array) -> None:
        """Refuse the first image that is not as it was when it was decoded."""
        fix = "put it back as it was, or touch it to say that it is right"
        start = 0
        with decoding() as threads:
            decoder = ImageDecoder(folder, self.size, threads)
            for block in decoder.blocks(decoder.shape()):
                wrong = (block != images[start : start + len(block)]).any((1, 2, 3)).nonzero()[0]
                if len(wrong):
                    why = f"{shown(decoder.files[start + wrong[0]])} is not what was decoded"
                    raise FileRefused(str(folder.path), why, fix)
                start += len(block)
        if decoder.digest.hexdigest() != decoded.digest:
            why = "an image file is not the one that was decoded, though its pixels are"
            raise FileRefused(str(folder.path), why, fix)

    def _made(self, folder: Folder, cache: Cache) -> Decoded:
        with decoding() as threads:
            decoder = ImageDecoder(folder, self.size, threads)
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
