"""A folder of small images in three classes of unlike size, and its pixels."""

import numpy as np
from PIL import Image

COUNTS = {"train": {"ant": 31, "bee": 20, "cow": 9}, "test": {"ant": 4, "bee": 3, "cow": 2}}
OPTIONS = [{}, {"size": 4}, {"label": "mine"}]
CLASSES = ("ant", "bee", "cow")
SIZES = (54, 6, 9)
FIXED = "ed65c30e973459e040341e9301222165418f5b93e00c1c8a00c6220760db2140"
REFUSED = [
    ({"path": None}, "data.path=null: no folder is given\n  try: data.path=DIR with DIR/train/"),
    ({"path": "a\0b"}, r"data.path=a\\x00b: is not a path"),
    ({"label": "a/b"}, "data.label=a/b: is not 1 to 40 letters.* try: data.label=a_b"),
    ({"size": 0}, "data.size=0: must be in 1 .. 4096"),
    ({"train_size": 55}, "data.train_size=55: there are 54 .* try: data.train_size=54"),
]


def prepare(folder):
    """Write images of 12x8 pixels unless they are there; give the options that find them."""
    path = folder / "insects and more"
    if not path.exists():
        for place, number in files():
            pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), "u1")
            (path / place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path / place)
    return {"path": str(path), "root": str(folder / "data")}


def files():
    number = 0
    for part, classes in COUNTS.items():
        for name, count in classes.items():
            for index in range(count):
                yield f"{part}/{name}/{index:03d}.{'png' if index % 2 else 'bmp'}", number
                number += 1


def source(folder, options):
    read = {part: ([], []) for part in COUNTS}
    for place, _ in files():
        part, name, _ = place.split("/")
        image = Image.open(f"{options['path']}/{place}")
        if "size" in options:  # the shorter side becomes 4, then the middle 4 of 6 columns stay
            image = image.resize((6, 4), Image.Resampling.BILINEAR).crop((1, 0, 5, 4))
        read[part][0].append(np.asarray(image).transpose(2, 0, 1))
        read[part][1].append(CLASSES.index(name))
    return {part: (np.stack(images), np.array(labels)) for part, (images, labels) in read.items()}
