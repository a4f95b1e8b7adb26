"""A small set in the format of CIFAR-10's binary version, written byte by byte."""

import hashlib
import io
import tarfile

import numpy as np

from normbench.data._known import Known

OPTIONS = [{}]
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
SIZES = (54, 6, 20)
FIXED = "b305a57ecc7c895d4227dda49dbf1cf0e8cd29a5effa80f95792223e7c712baa"
REFUSED = [
    ({"train_size": 45001}, "data.train_size=45001: there are 45,000 .* try: .*=45000"),
]
ARCHIVE = "cifar10/cifar-10-binary.tar.gz"


def images(part, count):
    random = np.random.default_rng([10, part])
    return random.integers(0, 256, (count, 3, 32, 32), "u1"), random.permutation(count) % 10


def record(image, label):
    return bytes([label]) + b"".join(bytes(row) for plane in image for row in plane)


def members():
    """Their contents by name: five batches of 12 images each, and one of 20."""
    train, test = images(0, 60), images(1, 20)
    rows = [record(image, label) for image, label in zip(*train, strict=True)]
    found = {f"data_batch_{k + 1}.bin": b"".join(rows[12 * k : 12 * k + 12]) for k in range(5)}
    rows = [record(image, label) for image, label in zip(*test, strict=True)]
    found["test_batch.bin"] = b"".join(rows)
    found["batches.meta.txt"] = "\n".join(CLASSES).encode()
    order = [1, 6, 3, 4, 0, 2, 5]  # the official archive has some order of its own, too
    return {f"cifar-10-batches-bin/{list(found)[k]}": found[list(found)[k]] for k in order}


def prepare(folder):
    """Write the archive below `folder` unless it is there."""
    path = folder / "root" / ARCHIVE
    if not path.exists():
        path.parent.mkdir(parents=True)
        with tarfile.open(path, "w:gz") as tar:
            for name, content in members().items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return {"root": str(folder / "root")}


def constants(folder):
    """What the class must say of the small set."""
    data = (folder / "root" / ARCHIVE).read_bytes()
    file = Known("cifar-10-binary.tar.gz", len(data), hashlib.sha256(data).hexdigest())
    return {"files": (file,), "split": SIZES}


def source(folder, options):
    return {"train": images(0, 60), "test": images(1, 20)}
