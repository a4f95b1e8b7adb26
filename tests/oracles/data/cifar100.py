"""A small set in the format of CIFAR-100's binary version, written byte by byte."""

import hashlib
import io
import tarfile

import numpy as np

from normbench.data._known import Known

OPTIONS = [{}]
NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus "
    "butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch "
    "crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo "
    "keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse "
    "mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy "
    "porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television "
    "tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
CLASSES = tuple(NAMES.split())
SIZES = (270, 30, 100)
FIXED = "08c7884ea35ffbd269b986eb59612ae8520dbc5a7953b794bbd5b1d415ba2e09"
REFUSED = [
    ({"train_size": 45001}, "data.train_size=45001: there are 45,000 .* try: .*=45000"),
    ({"root": "a\0b"}, r"data.root=a\\x00b: is not a path\n  try: data.root=null"),
]
ARCHIVE = "cifar100/cifar-100-binary.tar.gz"


def images(part, count):
    random = np.random.default_rng([100, part])
    return random.integers(0, 256, (count, 3, 32, 32), "u1"), random.permutation(count) % 100


def content(part, count):
    """Records of a coarse label, a fine one, and the pixels of red, green and blue."""
    rows = zip(*images(part, count), strict=True)
    return b"".join(bytes([fine // 5, fine]) + image.tobytes() for image, fine in rows)


def prepare(folder):
    """Write the archive below `folder` unless it is there."""
    path = folder / "root" / ARCHIVE
    if not path.exists():
        path.parent.mkdir(parents=True)
        with tarfile.open(path, "w:gz") as tar:
            for name, data in (("test", content(1, 100)), ("train", content(0, 300))):
                info = tarfile.TarInfo(f"cifar-100-binary/{name}.bin")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return {"root": str(folder / "root")}


def constants(folder):
    """What the class must say of the small set."""
    data = (folder / "root" / ARCHIVE).read_bytes()
    file = Known("cifar-100-binary.tar.gz", len(data), hashlib.sha256(data).hexdigest())
    return {"files": (file,), "split": SIZES}


def source(folder, options):
    return {"train": images(0, 300), "test": images(1, 100)}
