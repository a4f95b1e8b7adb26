"""MNIST, complete, in the package."""

from __future__ import annotations

import hashlib
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from normbench.data._base import SPLITTING, About, Data, Dataset, part, split, validation_size
from normbench.errors import FileRefused, MachineError

if TYPE_CHECKING:
    from normbench.data._base import Array

FILES = Path(__file__).resolve().parent / "files"
REPAIR = "pip install --force-reinstall normbench"


@dataclass(frozen=True)
class Packed:
    """A gzipped IDX file: its size and SHA-256, the SHA-256 of what it unpacks to, and the shape.

    An IDX file is a header of 32-bit big-endian words, the magic number 0x0800 + axes and the
    length of each axis, followed by one byte per element.
    """

    name: str
    size: int
    sha256: str
    unpacked_sha256: str
    shape: tuple[int, ...]


TRAIN_IMAGES = Packed(
    "train-images-idx3-ubyte.gz",
    9630610,
    "71524e2cd1ad2968737f7f2f2ff69cbfc32df8ccddff51593f7cb2d4e0eb5b64",
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    (60000, 28, 28),
)
TRAIN_LABELS = Packed(
    "train-labels-idx1-ubyte.gz",
    28878,
    "fe03b8bd7915f70bf5aa08be480aa413fbd85afcaa58b35d230d335f284fd88e",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    (60000,),
)
TEST_IMAGES = Packed(
    "t10k-images-idx3-ubyte.gz",
    1602050,
    "5634745efa576a17e7d4cf5cd9d09123c75e6538e5114267c2d156edaf519341",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    (10000, 28, 28),
)
TEST_LABELS = Packed(
    "t10k-labels-idx1-ubyte.gz",
    4517,
    "ae18e77e031ccde52407f794d123116439864147d33ac992975f85dd4dc42af6",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    (10000,),
)
ALL = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)


@dataclass(frozen=True)
class MNIST(Data):
    """MNIST: 70,000 handwritten digits, 28x28, grey, in 10 classes; part of the package.

    Its 60,000 training images are cut into 55,000 to train on and 5,000 for validation.

    Source: LeCun, Cortes & Burges 1998, The MNIST database of handwritten digits.
    """

    images: ClassVar[int] = 70_000
    shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    classes: ClassVar[int] = 10
    split: ClassVar[tuple[int, int, int]] = (55_000, 5_000, 10_000)
    mean: ClassVar[tuple[float]] = (0.13066047627384286,)
    std: ClassVar[tuple[float]] = (0.3081078038564627,)

    def about(self) -> About:
        """Tell what is known from the constants here; looks only whether the files are there."""
        for file in ALL:
            _length(FILES, file)
        train, val, test = self.split
        sizes = (self.taken(train), val, test)
        text = "\n".join([SPLITTING, *(file.unpacked_sha256 for file in ALL)])
        digest = hashlib.sha256(text.encode()).hexdigest()
        return About("mnist", self.shape, self.classes, sizes, digest, here=True)

    def load(self) -> Dataset:
        """Unpack the files, checking their digests before and after."""
        images, labels = read(FILES, TRAIN_IMAGES)[..., None], read(FILES, TRAIN_LABELS)
        val, train = split(labels, validation_size(len(labels)))
        train = train[: self.taken(len(train))]
        return Dataset(
            "mnist",
            part(images[train], labels[train]),
            part(images[val], labels[val]),
            part(read(FILES, TEST_IMAGES)[..., None].copy(), read(FILES, TEST_LABELS)),
            tuple("0123456789"),
            self.mean,
            self.std,
        )


def read(folder: Path, file: Packed) -> Array:
    """Return the array of a gzipped IDX file, uint8 of the expected shape, read-only.

    Reads and unpacks no more than the expected number of bytes, whatever the file holds.

    Raises: FileRefused if the file is missing, damaged, or another one; MachineError if it cannot
        be read.
    """
    import numpy as np

    length = _length(folder, file)
    try:
        with (folder / file.name).open("rb") as stream:
            packed = stream.read(length)
    except OSError as error:
        why = f"cannot be read in {folder}: {error.strerror}"
        raise MachineError(file.name, why, REPAIR) from error
    _check_digest(folder, file, "has", packed, file.sha256)
    header = 4 + 4 * len(file.shape)
    data = _unpacked(folder, file, packed, header + math.prod(file.shape))
    words = tuple(int.from_bytes(data[at : at + 4], "big") for at in range(0, header, 4))
    if words != (0x800 + len(file.shape), *file.shape):
        found, right = _spelt(words), _spelt((0x800 + len(file.shape), *file.shape))
        raise FileRefused(file.name, f"begins with {found} instead of {right}", REPAIR)
    _check_digest(folder, file, "unpacks to", data, file.unpacked_sha256)
    return np.frombuffer(data, np.uint8, offset=header).reshape(file.shape)


def _length(folder: Path, file: Packed) -> int:
    """The size of a file that is there and has the right one."""
    path = folder / file.name
    if not path.is_file():
        raise FileRefused(file.name, f"is not in {folder}", REPAIR)
    length = path.stat().st_size
    if length != file.size:
        why = f"has {length:,} bytes instead of {file.size:,} in {folder}"
        raise FileRefused(file.name, why, REPAIR)
    return length


def _unpacked(folder: Path, file: Packed, packed: bytes, length: int) -> bytes:
    gzip = zlib.decompressobj(wbits=31)
    try:
        data = gzip.decompress(packed, length + 1)
    except zlib.error as error:
        raise FileRefused(file.name, f"is no gzip file in {folder}: {error}", REPAIR) from error
    if len(data) == length and gzip.eof:
        return data
    why = f"unpacks to {len(data):,} bytes instead of {length:,}"
    if len(data) > length:
        why = f"unpacks to more than {length:,} bytes"
    elif not gzip.eof:
        why = f"breaks off after {len(data):,} unpacked bytes"
    raise FileRefused(file.name, f"{why} in {folder}", REPAIR)


def _check_digest(folder: Path, file: Packed, verb: str, data: bytes, right: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != right:
        why = f"{verb} SHA-256 {found[:8]}… instead of {right[:8]}… in {folder}: it is damaged"
        raise FileRefused(file.name, why, REPAIR)


def _spelt(words: tuple[int, ...]) -> str:
    magic, *shape = words
    return f"{magic:#x} " + "x".join(map(str, shape))
