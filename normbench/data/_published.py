"""Sets that others publish: downloaded files, decoded once into a checked copy."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from normbench.data._base import (
    SPLITTING,
    Data,
    Dataset,
    DatasetInfo,
    PixelMoments,
    VerifiedFile,
    cut,
    split,
)
from normbench.data._cache import Cache, Decoded
from normbench.data._known import Known, Store
from normbench.errors import FileRefused, shown
from normbench.runtime import watching

if TYPE_CHECKING:
    from normbench.data._base import Array
    from normbench.data._remote import Remote

    Labelled = tuple[Array, Array]  # images (N, H, W, C), labels (N,), both uint8

BLOCK = 1024  # images written to the copy at a time


@dataclass(frozen=True)
class Published(Data):
    """The base of the sets that are downloaded; each says what it is and reads its files."""

    label: ClassVar[str]  # also the name of the part
    address: ClassVar[str]  # the files come from here
    place: ClassVar[str]  # and lie here, below the data root
    files: ClassVar[tuple[Known, ...]]
    names: ClassVar[tuple[str, ...]]  # of the classes
    shape: ClassVar[tuple[int, int, int]]
    classes: ClassVar[int]
    split: ClassVar[tuple[int, int, int]]

    def read(self, store: Store) -> tuple[Labelled, Labelled]:
        """Read the files: the images and labels of training and test, in their published order.

        Raises: FileRefused if a file is missing, damaged or another one.
        """
        raise NotImplementedError

    def about(self) -> DatasetInfo:
        """Tell what is known from the constants; looks only whether the files are there."""
        train, val, test = self.split
        sizes = (self.taken(train, self.classes), val, test)
        store = self._store()
        return DatasetInfo(
            self.label,
            self.shape,
            self.classes,
            sizes,
            self._source(),
            here=self._lacking() is None,
            where=f"in {shown(store.folder)}",
            fix=store.repair,
        )

    def load(self) -> Dataset:
        """Read the decoded copy; make it from the files, checking their digests, if need be."""
        self.require()
        decoded, images, labels = self._cache().opened(self._source(), self._made)
        assert labels is not None
        parts = cut(images.copy(), labels, self.split)
        whole = Dataset(self.label, *parts, self.names, decoded.mean, decoded.std)
        return whole.first(self.taken(len(whole.train)))

    def downloads(self) -> tuple[Remote, ...]:
        """List the files with where they come from."""
        from normbench.data._remote import Remote  # here, since nothing else needs the network

        folder = self._store().folder
        return tuple(Remote(file, folder, self.address + file.name) for file in self.files)

    def require(self) -> None:
        """Look whether the files are there with their sizes."""
        lacking = self._lacking()
        if lacking:
            raise lacking

    def verify(self) -> Iterator[VerifiedFile]:
        """Read the files, and the decoded copy if there is one."""
        self.require()
        store = self._store()
        for file in self.files:
            store.read(file)
            yield VerifiedFile(file.name, file.size, file.sha256)
        yield from self._cache().verify(self._source())

    def _store(self) -> Store:
        root = f" --root {shlex.quote(shown(self.root))}" if self.root else ""
        fix = f"normbench data download {self.label}{root}"
        return Store(self.folder() / self.place, fix)

    def _lacking(self) -> FileRefused | None:
        store = self._store()
        try:
            for file in self.files:
                store.check(file)
        except FileRefused as refused:
            absent = [f.name for f in self.files if not (store.folder / f.name).exists()]
            if not absent:
                return refused
            why = f"is not here: there is no {absent[0]} in {shown(store.folder)}"
            return FileRefused(self.label, why, store.repair)
        return None

    def _source(self) -> str:
        text = "\n".join([SPLITTING, *(file.sha256 for file in self.files)])
        return hashlib.sha256(text.encode()).hexdigest()

    def _cache(self) -> Cache:
        return Cache(self.folder() / "cache" / self.label)

    def _made(self, cache: Cache) -> Decoded:
        """Decode the files: train, val and test in the order of their use."""
        import numpy as np

        (images, labels), (tests, test_labels) = self.read(self._store())
        if max(labels.max(), test_labels.max()) >= self.classes:
            why = f"has labels above {self.classes - 1}"
            raise self._store().refused(self.files[0], why)
        moments = PixelMoments(self.shape[0])
        for start in range(0, len(images), BLOCK):
            moments.add(images[start : start + BLOCK])
        val, train = split(labels, self.split[1])
        order = np.concatenate([train, val])

        def blocks() -> Iterator[Array]:
            with watching.work(f"decoding {self.label}", len(order)) as so_far:
                for start in range(0, len(order), BLOCK):
                    yield images[order[start : start + BLOCK]]
                    so_far(start)
            yield tests

        _, height, width = self.shape
        shape = (len(order) + len(tests), height, width, self.shape[0])
        sha256 = cache.write(shape, blocks())
        all_labels = np.concatenate([labels[order], test_labels])
        known = cache.write(shape[:1], [all_labels], "labels.npy")
        source, mean, std = self._source(), moments.mean(), moments.std()
        decoded = Decoded(source, source, shape, mean, std, sha256, known)
        cache.describe(decoded)
        return decoded
