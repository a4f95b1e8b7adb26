"""MNIST read with the standard library, and the class counts that its authors' files have."""

import gzip
import struct
from pathlib import Path

import numpy as np

FILES = Path(__file__).parents[3] / "normbench/data/files"
OPTIONS = [{}]
CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
SIZES = (55000, 5000, 10000)
TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
FIXED = "680f035b259488e0b0bc67967165a3e72d6b2b828854007c634cc2162d1bf628"
REFUSED = [
    ({"train_size": 55001}, "data.train_size=55001: there are 55,000 .* try: .*=55000"),
    ({"train_size": 0}, "data.train_size=0: must be at least 1"),
    ({"root": ""}, "data.root=: is empty\n  try: data.root=null"),
]


def prepare(folder):
    return {}


def source(folder, options):
    train, test = (read(f"{name}-images-idx3") for name in ("train", "t10k"))
    train_labels, test_labels = (read(f"{name}-labels-idx1") for name in ("train", "t10k"))
    assert np.bincount(train_labels).tolist() == TRAIN_COUNTS
    assert np.bincount(test_labels).tolist() == TEST_COUNTS
    return {"train": (train[:, None], train_labels), "test": (test[:, None], test_labels)}


def read(name):
    with gzip.open(FILES / f"{name}-ubyte.gz") as stream:
        _, _, kind, axes = struct.unpack("4B", stream.read(4))
        shape = struct.unpack(f">{axes}I", stream.read(4 * axes))
        assert kind == 8
        return np.frombuffer(stream.read(), "u1").reshape(shape)
