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
from normbench.errors import FileRefused, counted, shown

if TYPE_CHECKING:
    from normbench.data._base import Array

PARTS = ("train", "val", "test")
NAMES = {  # of their folders, in any case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# What file systems and archives leave behind, beside what begins with a dot.
JUNK = (
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r", "system volume information"),
    *("$recycle.bin", "#recycle", "@recycle", "@eadir", "lost+found"),
)
KINDS = 5  # of them that are named
DECODING = 2  # another way to decode makes copies anew
LAYOUT = "data.path=DIR with DIR/train/CLASS/*.png and DIR/test/CLASS/*.png"
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".webp")
LARGEST_FILE = 64 << 20  # bytes; with the pixels and the threads it bounds the memory of decoding
REPLACE = "replace the file, or move it out of the folder"


@dataclass(frozen=True, eq=False)
class Folder:
    """The image files of `train/`, `val/` and `test/` below a folder, by class.

    `parts`: for each part that is there, the files `PART/CLASS/FILE` and the number of their class,
    sorted by class and name; `fingerprint` changes with any name, size or time of a file;
    `training` is what the names of training files begin with; `unused`: what of the folder is not
    used, in words.
    """

    path: Path
    classes: tuple[str, ...]
    parts: dict[str, list[tuple[str, int]]]
    fingerprint: str
    training: str = "train/"
    unused: tuple[str, ...] = ()

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
    try:
        found = _scanned(path)
    except OSError as error:
        why = f"{shown(error.filename or 'a file in it')} cannot be read: {error.strerror}"
        raise FileRefused(str(path), why, "make the folder readable") from error
    if found.sizes[0] < 1:
        missing = " and ".join(f"{name}/" for name in found.missing)
        there = counted(len(found.parts["train"]), "image")
        why = f"has {there} in train/, too few to cut {missing} from"
        raise FileRefused(str(path), why, LAYOUT)
    found.check_classes()
    return found


def _scanned(path: Path) -> Folder:
    from PIL import __version__

    places = _places(path)
    classes = _subfolders(path / places["train"])
    folders = dict.fromkeys([path, *(path / place for place in places.values())])
    junk = [name for folder in folders for name in os.listdir(folder) if not _visible(name)]
    # Another Pillow may round otherwise.
    digest = hashlib.sha256(f"Pillow {__version__}, decoding {DECODING}\n".encode())
    parts: dict[str, list[tuple[str, int]]] = {}
    for name, place in places.items():
        _check_classes(path, (name, place), places["train"], classes)
        parts[name] = list(_files(path, place, classes, (digest.update, junk.append)))
    training = f"{places['train']}/" if places["train"] else ""
    others = [name for name in _subfolders(path) if name not in places.values()]
    unused = [f"{shown(name)}/ is not used" for name in others if training]
    if junk:
        # Archives of a Mac have a `._NAME` beside each NAME.
        kinds = sorted({"._*" if name.startswith("._") else shown(name) for name in junk})
        names = ", ".join(kinds[:KINDS] + ["…"] * (len(kinds) > KINDS))
        unused.append(f"left out as no images: {len(junk)} ({names})")
    return Folder(path, classes, parts, digest.hexdigest(), training, tuple(unused))


def _places(path: Path) -> dict[str, str]:
    """Find the folder of each part: `train/` and others, or all classes at the top.

    Raises: FileRefused if there are two folders of a part, or only others than `train/`.
    """
    there = _subfolders(path)
    found: dict[str, str] = {}
    for part, names in NAMES.items():
        named = [name for name in there if name.lower() in names]
        if len(named) > 1:
            why = f"has {' and '.join(f'{name}/' for name in named)}, both of which are {part}/"
            raise FileRefused(str(path), why, "move all but one of them out of the folder")
        if named:
            found[part] = named[0]
    if not found and len(there) > 1:
        return {"train": ""}
    if "train" not in found:
        raise FileRefused(str(path), "has no folder train/", LAYOUT)
    return found


def _subfolders(path: Path) -> tuple[str, ...]:
    with os.scandir(path) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and _visible(entry.name)]
    return tuple(sorted(names, key=os.fsencode))


def _check_classes(
    path: Path, part: tuple[str, str], training: str, classes: tuple[str, ...]
) -> None:
    """Refuse fewer than two classes, and a part (name and folder) with others than train/."""
    name, place = part
    if name == "train" and len(classes) < 2:
        why = f"has {len(classes)} class folders in {place}/, at least 2 are needed"
        raise FileRefused(str(path), why, LAYOUT)
    odd = sorted(set(_subfolders(path / place)) ^ set(classes))
    if odd:
        there, lacking = (training, place) if odd[0] in classes else (place, training)
        why = f"has a class {shown(odd[0])!r} in {there}/ but not in {lacking}/"
        raise FileRefused(str(path), why, "give both the same class folders")


def _visible(name: str) -> bool:
    return name[0] != "." and name.lower() not in JUNK


def _files(
    path: Path,
    place: str,
    classes: tuple[str, ...],
    tell: tuple[Callable[[bytes], None], Callable[[str], None]],
) -> Iterator[tuple[str, int]]:
    """Yield the files of a part with their class, in order.

    Args: place: its folder. tell: take what identifies a file, and the name of what is left out.
    """
    note, leave_out = tell
    start = f"{place}/" if place else ""
    for label, name in enumerate(classes):
        with os.scandir(path / place / name) as entries:
            listed = list(entries)
        visible = [entry for entry in listed if _visible(entry.name)]
        for entry in listed:
            if not _visible(entry.name):
                leave_out(entry.name)
        if not visible:
            raise FileRefused(str(path), f"has no image in {start}{shown(name)}/", LAYOUT)
        for entry in sorted(visible, key=lambda entry: os.fsencode(entry.name)):
            file = f"{start}{name}/{entry.name}"
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
