"""Folders of image files: which lie there, in which order they are used, and their pixels."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from normbench.data._base import split, spread, validation_size
from normbench.errors import FileRefused, shown

if TYPE_CHECKING:
    from normbench.data._base import Array

PARTS = ("train", "val", "test")
LAYOUT = "data.path=DIR with DIR/train/CLASS/*.png and DIR/test/CLASS/*.png"
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".webp")
LARGEST_FILE = 64 << 20  # bytes; with the pixels and the threads it bounds the memory of decoding
REPLACE = "replace the file, or move it out of the folder"


@dataclass(frozen=True, eq=False)
class Folder:
    """The image files of `train/`, `val/` and `test/` below a folder, by class.

    `parts`: for each part that is there, the files `PART/CLASS/FILE` and the number of their class,
    sorted by class and name; `fingerprint` changes with any name, size or time of a file.
    """

    path: Path
    classes: tuple[str, ...]
    parts: dict[str, list[tuple[str, int]]]
    fingerprint: str

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """The parts that are cut from the training images."""
        return tuple(name for name in PARTS if name not in self.parts)

    @cached_property
    def sizes(self) -> tuple[int, int, int]:
        """The number of images in train, val and test, after cutting."""
        cut = self._cut()
        train = len(self.parts["train"]) - sum(cut.values())
        val, test = (cut[name] if name in cut else len(self.parts[name]) for name in PARTS[1:])
        return train, val, test

    @cached_property
    def rows(self) -> tuple[list[str], Array]:
        """The files, all of train, val and test in the order of their use, and their labels."""
        import numpy as np

        named = {name: [label for _, label in files] for name, files in self.parts.items()}
        labels = {name: np.array(numbers) for name, numbers in named.items()}
        cut = self._cut()
        *pieces, train = split(labels["train"], *cut.values())
        chosen = {"train": ("train", train)}
        chosen |= {name: ("train", piece) for name, piece in zip(cut, pieces, strict=True)}
        chosen |= {name: (name, spread(labels[name])) for name in labels if name != "train"}
        order = [chosen[name] for name in PARTS]
        files = [self.parts[source][index][0] for source, indices in order for index in indices]
        return files, np.concatenate([labels[source][indices] for source, indices in order])

    @cached_property
    def lacking(self) -> tuple[str, ...]:
        """The classes without an image for validation or test, with their numbers of images."""
        text = "images of class {}: {} to train on, {} for validation, {} for the test"
        small = self._small_classes().items()
        return tuple(text.format(name, *counts) for name, counts in small if 0 in counts)

    def check_classes(self) -> None:
        """Raise FileRefused if a class is left without a training image."""
        for name, counts in self._small_classes().items():
            if not counts[0]:
                missing = " and ".join(f"{part}/" for part in self.missing)
                why = f"leaves no image of {name} to train on, {missing} are cut from train/"
                raise FileRefused(str(self.path), why, "more images of this class")

    def _small_classes(self) -> dict[str, tuple[int, int, int]]:
        """Count the images in train, val and test of classes of which a part could get none."""
        total, cut = len(self.parts["train"]), self._cut()
        counts = Counter(label for _, label in self.parts["train"])
        # A part that is cut has its share of each class, to within one image.
        if min(counts.values()) * min(cut.values(), default=total) >= 2 * total:
            return {}
        labels, found, start = self.rows[1].tolist(), [], 0
        for size in self.sizes:
            found.append(Counter(labels[start : start + size]))
            start += size
        train, val, test = found
        return {
            shown(name): (train[number], val[number], test[number])
            for number, name in enumerate(self.classes)
        }

    def _cut(self) -> dict[str, int]:
        count = len(self.parts["train"])
        sizes = {"val": validation_size(count), "test": max(1, count // 10)}
        return {name: sizes[name] for name in self.missing}


def scan(path: Path) -> Folder:
    """List the images below a folder.

    Raises: FileRefused if there is no folder, no train/, a part without images or with other
        classes than train/, too few images to cut from, or a file that is not an image.
    """
    if not os.path.isdir(path):  # Path.is_dir raises where a name is too long
        raise FileRefused(str(path), "there is no such folder", LAYOUT)
    if not (path / "train").is_dir():
        raise FileRefused(str(path), "has no folder train/", LAYOUT)
    try:
        found = _scanned(path)
    except OSError as error:
        why = f"{shown(error.filename or 'a file in it')} cannot be read: {error.strerror}"
        raise FileRefused(str(path), why, "make the folder readable") from error
    if found.sizes[0] < 1:
        missing = " and ".join(f"{name}/" for name in found.missing)
        why = f"has {len(found.parts['train'])} images in train/, too few to cut {missing} from"
        raise FileRefused(str(path), why, LAYOUT)
    found.check_classes()
    return found


def _scanned(path: Path) -> Folder:
    from PIL import __version__

    classes = _subfolders(path, "train")
    digest = hashlib.sha256(f"Pillow {__version__}\n".encode())  # another one may round otherwise
    parts = {}
    for name in PARTS:
        if (path / name).is_dir():
            _check_classes(path, name, classes)
            parts[name] = list(_files(path, name, classes, digest.update))
    return Folder(path, classes, parts, digest.hexdigest())


def _subfolders(path: Path, part: str) -> tuple[str, ...]:
    with os.scandir(path / part) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
    return tuple(sorted(names, key=os.fsencode))


def _check_classes(path: Path, part: str, classes: tuple[str, ...]) -> None:
    """Refuse fewer than two classes, and a part with other classes than train/."""
    if part == "train" and len(classes) < 2:
        why = f"has {len(classes)} class folders in train/, at least 2 are needed"
        raise FileRefused(str(path), why, LAYOUT)
    odd = sorted(set(_subfolders(path, part)) ^ set(classes))
    if odd:
        there, lacking = ("train", part) if odd[0] in classes else (part, "train")
        why = f"has a class {shown(odd[0])!r} in {there}/ but not in {lacking}/"
        raise FileRefused(str(path), why, "give both the same class folders")


def _visible(name: str) -> bool:
    return name[0] != "." and name != "Thumbs.db"


def _files(
    path: Path, part: str, classes: tuple[str, ...], note: Callable[[bytes], None]
) -> Iterator[tuple[str, int]]:
    """Yield the files of a part with their class, in order; tell `note` what identifies them."""
    for label, name in enumerate(classes):
        with os.scandir(path / part / name) as entries:
            visible = [entry for entry in entries if _visible(entry.name)]
        if not visible:
            raise FileRefused(str(path), f"has no image in {part}/{shown(name)}/", LAYOUT)
        for entry in sorted(visible, key=lambda entry: os.fsencode(entry.name)):
            file = f"{part}/{name}/{entry.name}"
            known = entry.stat()
            if not (entry.is_file() and entry.name.lower().endswith(ENDINGS)):
                why = f"{shown(file)} is not an image ({' '.join(ENDINGS)})"
                raise FileRefused(str(path), why, REPLACE)
            if known.st_size > LARGEST_FILE:
                why = f"{shown(file)} has {known.st_size:,} bytes, more than {LARGEST_FILE:,}"
                raise FileRefused(str(path), why, REPLACE)
            numbers = known.st_size, known.st_mtime_ns, known.st_ctime_ns
            note(os.fsencode(file) + b"\0%d %d %d\n" % numbers)
            yield file, label
