"""A small set in the files of Fashion-MNIST, written byte by byte."""

import gzip
import hashlib
import struct

import numpy as np

from normbench.data._idx import Packed

OPTIONS = [{}]
CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SIZES = (63, 7, 20)
FIXED = "6b19dfe435f1cf9f0453d8e3e7ba2a5381d495a36d77bdcbc1b7b86deb560635"
REFUSED = [
    ({"train_size": 55001}, "data.train_size=55001: there are 55,000 .* try: .*=55000"),
    ({"train_size": 0}, "data.train_size=0: must be at least 1"),
]
COUNTS = {"train": 70, "t10k": 20}
PLACE = "root/FashionMNIST/raw"


def images(name):
    random = np.random.default_rng(COUNTS[name])
    count = COUNTS[name]
    return random.integers(0, 256, (count, 28, 28), "u1"), random.permutation(count) % 10


def files():
    """The arrays by file name."""
    for name in COUNTS:
        pixels, labels = images(name)
        yield f"{name}-images-idx3-ubyte.gz", pixels
        yield f"{name}-labels-idx1-ubyte.gz", labels.astype("u1")


def prepare(folder):
    """Write the four files below `folder` unless they are there."""
    (folder / PLACE).mkdir(parents=True, exist_ok=True)
    for name, array in files():
        path = folder / PLACE / name
        if not path.exists():
            words = struct.pack(f">{array.ndim + 1}I", 0x800 + array.ndim, *array.shape)
            path.write_bytes(gzip.compress(words + array.tobytes()))
    return {"root": str(folder / "root")}


def constants(folder):
    """What the class must say of the small set."""
    found = []
    for name, array in files():
        data = (folder / PLACE / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        found.append(Packed(name, len(data), digest, "", array.shape))
    return {"files": tuple(found), "split": SIZES}


def source(folder, options):
    (train, labels), (test, test_labels) = images("train"), images("t10k")
    return {"train": (train[:, None], labels), "test": (test[:, None], test_labels)}
