"""What is said and done when the files of a data set are missing, damaged, hostile or odd.

Rows 30 to 32 of the fault table, and the decoded copy of image folders.
"""

import gzip
import hashlib
import json
import os
import re
import shutil
import struct
import threading
import time
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from normbench.data import mnist
from normbench.data._decoder import ImageDecoder
from normbench.data._idx import Packed, read
from normbench.data._known import Store
from normbench.data.imagefolder import ImageFolder
from normbench.data.mnist import MNIST
from normbench.errors import DataError, FileRefused, MachineError
from normbench.runs.check import check_fit
from normbench.runtime.lock import Lock
from normbench.settings import compose

MIB = 1 << 20


def refusal(error, action):
    """The message and exit code of what an action raises."""
    with pytest.raises(error) as caught:
        action()
    assert str(caught.value).count("\n") == 1
    return str(caught.value), caught.value.code


# MNIST


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the package's files, which MNIST reads instead of them."""
    shutil.copytree(mnist.FILES, tmp_path / "files")
    monkeypatch.setattr(mnist, "FILES", tmp_path / "files")
    return tmp_path / "files"


def test_a_missing_file_is_found_before_loading(copied):
    (copied / "t10k-labels-idx1-ubyte.gz").unlink()
    message, code = refusal(FileRefused, MNIST().about)
    assert message == (
        f"normbench: error: t10k-labels-idx1-ubyte.gz: is not in {copied}\n"
        "  try: pip install --force-reinstall normbench"
    )
    assert code == 3


@pytest.mark.parametrize("size", [0, 17, 9_630_609])
def test_a_cut_file_is_found_before_loading(copied, size):
    path = copied / "train-images-idx3-ubyte.gz"
    os.truncate(path, size)
    message, code = refusal(FileRefused, MNIST().about)
    assert f"has {size:,} bytes instead of 9,630,610 in {copied}" in message
    assert code == 3


@pytest.mark.parametrize("place", [0, 12, 4_000_000, -1])
def test_a_flipped_bit_is_found_when_the_file_is_read(copied, place):
    path = copied / "train-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    message, code = refusal(FileRefused, MNIST().load)
    assert re.search(r"has SHA-256 \w{8}… instead of 71524e2c… in .*: it is damaged", message)
    assert code == 3


def test_test_files_under_the_names_of_train_files_are_found(copied):
    for kind in ("images-idx3", "labels-idx1"):
        shutil.copy(copied / f"t10k-{kind}-ubyte.gz", copied / f"train-{kind}-ubyte.gz")
    message, _ = refusal(FileRefused, MNIST().load)
    assert "has 1,602,050 bytes instead of 9,630,610" in message


def crafted(folder, content, shape, packed=None):
    """A gzip file that its digests call right, whatever it holds."""
    data = packed or gzip.compress(content)
    (folder / "crafted.gz").write_bytes(data)
    sums = [hashlib.sha256(each).hexdigest() for each in (data, content)]
    return Packed("crafted.gz", len(data), *sums, shape)


def test_a_sound_crafted_file_is_read(tmp_path):
    file = crafted(tmp_path, struct.pack(">3I", 0x802, 2, 3) + bytes(range(6)), (2, 3))
    assert read(Store(tmp_path, "get it again"), file).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ((0x802, 2, 2**31 - 1), "begins with 0x802 2x2147483647 instead of 0x802 2x3"),
        ((0x802, 2**32 - 1, 3), "begins with 0x802 4294967295x3 instead of 0x802 2x3"),
        ((0xD02, 2, 3), "begins with 0xd02 2x3 instead of 0x802 2x3"),
    ],
)
def test_a_header_with_a_wrong_size_is_refused(tmp_path, header, said):
    file = crafted(tmp_path, struct.pack(">3I", *header) + bytes(6), (2, 3))
    message, code = refusal(FileRefused, lambda: read(Store(tmp_path, "get it again"), file))
    assert said in message
    assert code == 3


def test_a_file_that_expands_without_end_takes_no_memory(tmp_path):
    file = crafted(tmp_path, bytes(50 * MIB), (28, 28))
    tracemalloc.start()
    message, _ = refusal(FileRefused, lambda: read(Store(tmp_path, "get it again"), file))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "unpacks to more than 796 bytes" in message
    assert peak < 2 * MIB


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        (b"no gzip at all", "is not a gzip file"),
        (gzip.compress(bytes(40), mtime=0), "unpacks to 40 bytes instead of 796"),
        (gzip.compress(bytes(796), mtime=0)[:-9], "breaks off after 796 unpacked bytes"),
    ],
)
def test_what_is_no_whole_gzip_file_is_refused(tmp_path, packed, said):
    file = crafted(tmp_path, b"", (28, 28), packed)
    message, _ = refusal(FileRefused, lambda: read(Store(tmp_path, "get it again"), file))
    assert said in message


def test_a_file_that_may_not_be_read_is_refused(copied, monkeypatch):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (copied / "train-images-idx3-ubyte.gz").chmod(0)
    message, _ = refusal(MachineError, MNIST().load)
    assert "cannot be read" in message


# image folders: layout


def make(folder, counts, size=(6, 5), mode="RGB", ending="png"):
    """Write random images, `counts` by part and class, and return the folder."""
    for part, classes in counts.items():
        for name, count in classes.items():
            place = folder / part / name
            place.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                random = np.random.default_rng([*part.encode(), *name.encode(), index])
                pixels = random.integers(0, 256, (size[1], size[0], 3), "u1")
                Image.fromarray(pixels).convert(mode).save(place / f"{index:02d}.{ending}")
    return folder


@pytest.fixture
def pets(tmp_path):
    """Two classes with train/ and test/."""
    return make(tmp_path / "pets", {"train": {"cat": 8, "dog": 12}, "test": {"cat": 2, "dog": 3}})


def opened(folder, **options):
    return ImageFolder(path=str(folder), root=str(folder.parent / "root"), **options)


def copy_of(folder):
    (found,) = (folder.parent / "root/cache").iterdir()
    return found


def test_a_missing_folder_is_refused(tmp_path):
    message, code = refusal(FileRefused, opened(tmp_path / "none").about)
    assert message.endswith(
        ": there is no such folder\n"
        "  try: data.path=DIR with DIR/train/CLASS/*.png and DIR/test/CLASS/*.png"
    )
    assert code == 3


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"test": {"cat": 1, "dog": 1}}, "has no folder train/"),
        ({"train": {"cat": 4}}, "has 1 class folders in train/, at least 2 are needed"),
        ({"train": {"cat": 4, "dog": 0}}, "has no image in train/dog/"),
        ({"train": {"cat": 1, "dog": 1}}, "has 2 images in train/, too few to cut val/ and test/"),
        (
            {"train": {"cat": 9, "dog": 9}, "test": {"cat": 1}},
            "has a class 'dog' in train/ but not in test/",
        ),
        (
            {"train": {"cat": 9, "dog": 9}, "val": {"cat": 1, "dog": 1, "eel": 1}},
            "has a class 'eel' in val/ but not in train/",
        ),
    ],
)
def test_a_folder_laid_out_otherwise_is_refused(tmp_path, counts, said):
    message, code = refusal(FileRefused, opened(make(tmp_path / "pets", counts)).about)
    assert said in message
    assert code == 3


def test_a_long_path_is_a_missing_folder():
    message, _ = refusal(FileRefused, ImageFolder(path="x" * 100_000).about)
    assert "there is no such folder" in message
    assert len(message) < 300


def test_a_file_that_is_no_image_is_refused(pets):
    (pets / "train/dog/notes.txt").write_text("good dogs")
    message, _ = refusal(FileRefused, opened(pets).about)
    assert "train/dog/notes.txt is not an image (.jpg .jpeg .png" in message


def test_hidden_files_are_left_alone(pets):
    (pets / "train/dog/.DS_Store").write_text("of no use")
    (pets / "train/.cache").mkdir()
    assert opened(pets).about().classes == 2


def test_names_that_are_not_text_are_read(pets):
    os.rename(
        os.fsencode(pets / "train/dog/00.png"), os.fsencode(pets / "train/dog") + b"/\xff.png"
    )
    assert opened(pets).about().sizes == (18, 2, 5)


SPLITS = [
    ({"train": 30, "val": 4, "test": 6}, (60, 8, 12), ()),
    ({"train": 30, "test": 6}, (54, 6, 12), ("val",)),
    ({"train": 30, "val": 4}, (54, 8, 6), ("test",)),
    ({"train": 30}, (48, 6, 6), ("val", "test")),
]


@pytest.mark.parametrize(("counts", "sizes", "cut"), SPLITS)
def test_what_is_missing_is_cut_from_train_and_said(tmp_path, counts, sizes, cut):
    folder = make(tmp_path / "pets", {part: {"a": n, "b": n} for part, n in counts.items()})
    about, loaded = opened(folder).about(), opened(folder).load()
    assert (about.sizes, about.cut) == (sizes, cut)
    seen = [
        image.numpy().tobytes()
        for part in (loaded.train, loaded.val, loaded.test)
        for image in part.images
    ]
    assert len(set(seen)) == sum(sizes)
    for part in (loaded.val, loaded.test):
        assert part.labels.sum() * 2 == len(part)


def test_classes_without_an_image_for_validation_or_test_are_said_with_the_counts(tmp_path):
    about = opened(make(tmp_path / "pets", {"train": {"cat": 60, "dog": 60, "eel": 1}})).about()
    assert about.lacking == (
        "images of class eel: 1 to train on, 0 for validation, 0 for the test",
    )


def test_a_set_whose_parts_have_all_classes_lacks_none(tmp_path):
    assert opened(make(tmp_path / "pets", {"train": {"cat": 30, "dog": 30}})).about().lacking == ()


def test_a_class_without_a_training_image_is_refused(tmp_path):
    folder = make(tmp_path / "pets", {"train": {"cat": 2, "dog": 1}})
    message, code = refusal(FileRefused, opened(folder).about)
    assert "leaves no image of dog to train on, val/ and test/ are cut from train/" in message
    assert code == 3


def test_a_subset_has_an_image_of_each_class(tmp_path):
    folder = make(tmp_path / "pets", {"train": {"cat": 20, "dog": 20}})
    message, _ = refusal(DataError, opened(folder, train_size=1).about)
    assert "data.train_size=1: each of the 2 classes needs a training image" in message
    assert "try: data.train_size=2" in message


def test_a_run_warns_of_the_classes_that_a_part_lacks(tmp_path):
    folder = make(tmp_path / "pets", {"train": {"cat": 60, "dog": 60, "eel": 1}})
    words = ["data=imagefolder", f"data.path={folder}", f"data.root={tmp_path}", "batch=2"]
    (cell,) = compose.Grid(compose.loader()).cells([*words, "model=mlp", "steps=1"], False)
    checked = check_fit(cell.config, cell.config.shape, cell.config.classes)
    assert [warning.text for warning in checked.warnings] == [
        "data=imagefolder: images of class eel: 1 to train on, 0 for validation, 0 for the test"
        "\n  try: more of them, or val/ and test/ with some"
    ]


def test_the_label_is_the_cleaned_name_of_the_folder_unless_given(tmp_path):
    folder = make(tmp_path / "my pets (2)", {"train": {"a": 10, "b": 10}})
    assert opened(folder).about().label == "my_pets_2_"
    assert opened(folder, label="pets").load().label == "pets"


# image folders: pixels


def test_images_of_unlike_size_need_a_size(pets):
    Image.new("RGB", (9, 7)).save(pets / "train/dog/11.png")
    message, code = refusal(DataError, opened(pets).about)
    assert re.search(
        r"data.size=null: train/dog/11.png is 9x7, .* is 6x5\n  try: data.size=5", message
    )
    assert code == 2
    assert opened(pets, size=5).about().shape == (3, 5, 5)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_images_have_one_channel(tmp_path, mode):
    folder = make(tmp_path / "grey", {"train": {"a": 10, "b": 10}}, mode=mode)
    loaded = opened(folder).load()
    first = np.asarray(Image.open(folder / "train/a/00.png").convert("L"))
    assert loaded.shape == (1, 5, 6)
    assert any(np.array_equal(image[0], first) for image in loaded.train.images)


def test_one_image_in_colour_makes_three_channels_of_all(tmp_path):
    folder = make(tmp_path / "mixed", {"train": {"a": 10, "b": 10}}, mode="L")
    Image.new("RGB", (6, 5), (200, 30, 10)).save(folder / "train/b/05.png")
    loaded = opened(folder).load()
    assert loaded.shape == (3, 5, 6)
    assert [200, 30, 10] in [image[:, 0, 0].tolist() for image in loaded.train.images]


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_other_kinds_of_colour_become_rgb(tmp_path, mode):
    ending = "jpg" if mode == "CMYK" else "png"
    folder = make(tmp_path / "kinds", {"train": {"a": 10, "b": 10}}, mode=mode, ending=ending)
    assert opened(folder).about().shape == (3, 5, 6)


def test_pixels_of_floating_point_are_refused(pets):
    Image.fromarray(np.full((5, 6), 0.5, np.float32)).save(pets / "a.tiff")
    (pets / "a.tiff").rename(pets / "train/cat/03.png")
    message, _ = refusal(FileRefused, opened(pets).about)
    assert "train/cat/03.png is damaged: it is none of" in message


def pretend(path, width, height):
    """Let the header of a PNG file claim another size."""
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def damage_none(path):
    path.write_bytes(b"")


def damage_text(path):
    path.write_text("no image")


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def damage_flip(path):
    data = bytearray(path.read_bytes())
    data[60] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [damage_none, damage_text, damage_cut, damage_flip])
def test_a_damaged_image_is_named(pets, damage):
    damage(pets / "test/dog/01.png")
    message, code = refusal(FileRefused, opened(pets).about)
    assert "test/dog/01.png is damaged: " in message
    assert message.endswith("try: replace the file, or move it out of the folder")
    assert code == 3
    assert not list(copy_of(pets).glob("images*"))


@pytest.mark.parametrize(
    ("size", "said"),
    [((5001, 5000), "is 5001x5000, more than 25,000,000 pixels"), ((60_000, 60_000), "damaged")],
)
def test_an_image_that_claims_to_be_huge_is_refused(pets, size, said):
    pretend(pets / "train/cat/00.png", *size)
    message, _ = refusal(FileRefused, opened(pets).about)
    assert f"train/cat/00.png {said}" in message or f"train/cat/00.png is {said}" in message


def test_a_huge_file_is_not_opened(pets):
    os.truncate(pets / "train/cat/00.png", 65 * MIB)
    message, _ = refusal(FileRefused, opened(pets).about)
    assert "train/cat/00.png has 68,157,440 bytes, more than 67,108,864" in message


# image folders: the decoded copy


@pytest.fixture
def no_decoding(monkeypatch):
    """Make every attempt to decode an image fail."""

    def decode(self, file, out):
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(ImageDecoder, "_decode", decode)


def same(one, other):
    return all(
        torch.equal(getattr(one, part).images, getattr(other, part).images)
        and torch.equal(getattr(one, part).labels, getattr(other, part).labels)
        for part in ("train", "val", "test")
    )


def test_images_are_decoded_once(pets, no_decoding):
    first = opened(pets).load()
    no_decoding()
    assert same(opened(pets).load(), first)


def test_a_changed_image_is_decoded_again(pets):
    before, loaded = opened(pets).about(), opened(pets).load()
    path = pets / "train/dog/03.png"
    Image.open(pets / "train/dog/04.png").save(path)
    after = opened(pets).about()
    assert after.digest != before.digest
    assert not same(opened(pets).load(), loaded)


def test_equal_folders_have_equal_digests_wherever_they_lie(pets, tmp_path):
    shutil.copytree(pets, tmp_path / "elsewhere")
    assert opened(tmp_path / "elsewhere").about().digest == opened(pets).about().digest


def damage_byte(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def damage_half(path):
    os.truncate(path, path.stat().st_size // 2)


COPIES = [
    (name, how)
    for name in ("images.npy", "images.json")
    for how in (damage_byte, damage_half, damage_none, Path.unlink)
]


@pytest.mark.parametrize(("name", "damage"), COPIES)
def test_a_damaged_copy_is_made_again(pets, name, damage):
    first = opened(pets).load()
    kept = {each.name: each.read_bytes() for each in copy_of(pets).iterdir()}
    damage(copy_of(pets) / name)
    assert same(opened(pets).load(), first)
    assert (copy_of(pets) / name).read_bytes() == kept[name]


def with_content(path, **changes):
    content = {**json.loads(path.read_text())["content"], **changes}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"content": content, "sha256": digest}))


HOSTILE = [
    {"shape": [10**12, 5, 6, 3]},
    {"shape": [25, 5, 6]},
    {"shape": [25, 5, -6, 3]},
    {"shape": ["25", 5, 6, 3]},
    {"mean": ["x", "y", "z"]},
    {"std": [0.5]},
    {"sha256": None},
    {"more": 1},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=str)
def test_a_hostile_description_is_not_believed(pets, changes):
    first = opened(pets).load()
    with_content(copy_of(pets) / "images.json", **changes)
    assert same(opened(pets).load(), first)


@pytest.mark.parametrize("text", ["", "[", "[" * 60_000, "null", '{"content": 3}', "\0" * 70_000])
def test_a_description_that_is_none_is_not_believed(pets, text):
    first = opened(pets).load()
    (copy_of(pets) / "images.json").write_text(text)
    assert same(opened(pets).load(), first)


def test_a_link_in_place_of_the_copy_is_refused(pets, tmp_path):
    opened(pets).about()
    path = copy_of(pets) / "images.npy"
    path.unlink()
    (tmp_path / "precious").write_text("keep")
    path.symlink_to(tmp_path / "precious")
    message, code = refusal(FileRefused, opened(pets).about)
    assert "is a symbolic link" in message
    assert code == 3
    assert (tmp_path / "precious").read_text() == "keep"


def test_a_set_beyond_the_limit_stays_in_its_file(pets, monkeypatch):
    held = opened(pets).load()
    monkeypatch.setattr(ImageFolder, "held", 100)
    mapped = opened(pets).load()
    assert str(copy_of(pets) / "images.npy") in Path("/proc/self/maps").read_text()
    assert same(mapped, held)


def test_a_set_within_the_limit_is_read(pets):
    loaded = opened(pets).load()
    assert str(copy_of(pets)) not in Path("/proc/self/maps").read_text()
    assert len(loaded.train) == 18


def test_writing_into_a_mapped_set_leaves_the_copy_alone(pets, monkeypatch):
    monkeypatch.setattr(ImageFolder, "held", 100)
    opened(pets).load().train.images.zero_()
    assert opened(pets).load().train.images.sum() > 0


def test_a_copy_that_cannot_be_written_ends_with_the_reason(pets):
    (pets.parent / "file").write_text("in the way")
    data = ImageFolder(path=str(pets), root=str(pets.parent / "file"))
    message, code = refusal(MachineError, data.about)
    assert "cannot be written: not a directory" in message
    assert "data.root=DIR" in message
    assert code == 4


def test_what_a_killed_process_left_is_removed(pets):
    opened(pets).about()
    (copy_of(pets) / "images.json").unlink()
    stale = copy_of(pets) / "images.npy.tmp-1"
    stale.write_bytes(bytes(100))
    opened(pets).about()
    assert not stale.exists()


def test_a_second_process_waits_for_the_copy_and_uses_it(pets, no_decoding):
    about = opened(pets).about()
    description = copy_of(pets) / "images.json"
    written = description.read_bytes()
    no_decoding()
    found = []
    with Lock(copy_of(pets)):  # as if another process was at it
        description.unlink()
        second = threading.Thread(target=lambda: found.append(opened(pets).about()))
        second.start()
        time.sleep(0.3)
        assert not found
        description.write_bytes(written)
    second.join()
    assert found == [about]


def test_another_size_has_a_copy_of_its_own(pets, no_decoding):
    sizes = [opened(pets, size=size).about().shape for size in (None, 4)]
    no_decoding()
    assert [opened(pets, size=size).about().shape for size in (None, 4)] == sizes


def test_odd_metadata_gives_no_warning(pets):
    image = Image.new("P", (6, 5))
    image.save(pets / "train/cat/01.png", transparency=b"\x00\x40")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(pets).about()


@pytest.mark.slow
def test_cifar10_as_jpeg_files_is_read(shared_data, tmp_path):
    data = ImageFolder(path=str(shared_data / "cifar10-jpeg"), root=str(tmp_path))
    loaded = data.load()
    assert (loaded.label, loaded.shape) == ("cifar10-jpeg", (3, 32, 32))
    assert torch.bincount(loaded.train.labels).tolist() == [4500] * 10
    assert torch.bincount(loaded.val.labels).tolist() == [500] * 10
    assert torch.bincount(loaded.test.labels).tolist() == [1000] * 10
    # the constants of CIFAR-10 itself, which another compression hardly changes
    assert loaded.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=2e-3)
    assert loaded.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=3e-3)
