"""Pictures as people have them: decoded as viewers show them, in the folders that are usual."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from normbench.data import _decoder
from normbench.data.imagefolder import ImageFolder
from normbench.errors import FileRefused

GRADIENT = np.stack([np.tile(np.arange(0, 240, 20), (8, 1)), *np.zeros((2, 8, 12))], -1)


def saved(path: Path, pixels: np.ndarray, turn: int = 1, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = turn
    image.save(path, exif=exif, **options)


def folder(place: Path, first: np.ndarray, turn: int = 1, ending: str = "png") -> Path:
    """Two classes of six equal pictures each, of which the first file is `first`."""
    for name in ("a", "b"):
        for number in range(6):
            saved(place / f"train/{name}/{number}.{ending}", first, turn)
    return place


def read(place: Path, **options: object) -> np.ndarray:
    data = ImageFolder(path=str(place), root=str(place.parent / "data"), **options)
    return data.load().train.images[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_pictures_are_turned_as_their_exif_says(turn: int, ending: str, tmp_path: Path) -> None:
    place = folder(tmp_path / "set", GRADIENT.astype("u1"), turn, ending)
    with Image.open(place / f"train/a/0.{ending}") as image:
        shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert (read(place) == shown).all()


def test_two_classes_that_look_the_same_are_the_same(tmp_path: Path) -> None:
    place = folder(tmp_path / "set", GRADIENT.astype("u1"))
    turned = np.ascontiguousarray(np.rot90(GRADIENT.astype("u1")))
    for number in range(6):
        saved(place / f"train/b/{number}.png", turned, 6)
    images = ImageFolder(path=str(place), root=str(tmp_path / "data")).load().train.images
    assert (images == images[0]).all()


@pytest.mark.parametrize("alpha", [0, 51, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pictures_stand_on_white(alpha: int, mode: str, tmp_path: Path) -> None:
    pixels = np.full((5, 6, len(mode)), 100, "u1")
    pixels[..., -1] = alpha
    place = folder(tmp_path / "set", pixels)
    expected = 255 + (100 - 255) * alpha / 255
    assert np.abs(read(place) - expected).max() <= 1


def test_a_transparent_colour_of_a_palette_is_white(tmp_path: Path) -> None:
    place = folder(tmp_path / "set", GRADIENT.astype("u1"))
    image = Image.new("P", (12, 8))
    for path in place.glob("train/*/*.png"):
        image.save(path, transparency=0)
    assert (read(place) == 255).all()


@pytest.mark.parametrize(("wide", "narrow"), [(0, 0), (65535, 255), (257 * 99, 99), (30000, 117)])
@pytest.mark.parametrize("ending", ["png", "pgm"])
def test_16_bits_become_8(wide: int, narrow: int, ending: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number in range(6):
            path = tmp_path / f"set/train/{name}/{number}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((5, 6), wide, np.uint16)
            if ending == "png":
                Image.fromarray(pixels).save(path)
            else:  # which older Pillows read and do not write
                path.write_bytes(b"P5 6 5 65535 " + pixels.astype(">u2").tobytes())
    assert (read(tmp_path / "set") == narrow).all()


def test_a_large_photograph_is_decoded_at_a_fraction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = np.kron(GRADIENT.astype("u1"), np.ones((40, 40, 1), "u1"))
    place = folder(tmp_path / "set", whole, ending="jpg")
    usual = read(place, size=16)
    monkeypatch.setattr(_decoder, "LARGEST_IMAGE", 80 * 60)  # the file has 480 x 320 pixels
    shutil.rmtree(tmp_path / "data")
    assert (read(place, size=16) == usual).all()
    with Image.open(place / "train/a/0.jpg") as image:
        square = image.crop((80, 0, 400, 320)).resize((16, 16), Image.Resampling.BILINEAR)
    assert np.abs(usual.astype(int) - np.asarray(square)).max() <= 8


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "valid", "test"), ("Train", "VAL", "Test"), ("TRAINING", "Validation", "testing")],
)
def test_the_usual_names_of_folders_are_known(
    train: str, val: str, test: str, tmp_path: Path
) -> None:
    place = folder(tmp_path / "set", GRADIENT.astype("u1"))
    for name in (val, test):
        shutil.copytree(place / "train", place / f"{name}.copy")
        (place / f"{name}.copy").rename(place / name)
    (place / "train").rename(place / "renamed")
    (place / "renamed").rename(place / train)
    about = ImageFolder(path=str(place), root=str(tmp_path / "data")).about()
    assert (about.sizes, about.cut, about.lacking) == ((12, 12, 12), (), ())


def test_a_folder_of_classes_alone_is_cut(tmp_path: Path) -> None:
    place = folder(tmp_path / "set", GRADIENT.astype("u1")) / "train"
    about = ImageFolder(path=str(place), root=str(tmp_path / "data")).about()
    assert (about.classes, about.sizes, about.cut) == (2, (10, 1, 1), ("val", "test"))


def test_two_folders_of_one_part_are_refused(tmp_path: Path) -> None:
    place = folder(tmp_path / "set", GRADIENT.astype("u1"))
    for name in ("val", "valid"):
        shutil.copytree(place / "train", place / name)
    with pytest.raises(FileRefused, match="has val/ and valid/, both of which are val/"):
        ImageFolder(path=str(place), root=str(tmp_path / "data")).about()


def test_what_is_not_used_is_named(tmp_path: Path) -> None:
    place = folder(tmp_path / "set", GRADIENT.astype("u1"))
    for name in ("Thumbs.db", "desktop.ini", "._0.png"):
        (place / "train/a" / name).write_text("of no use")
    for name in ("__MACOSX", "@eaDir", ".ipynb_checkpoints", "lost+found", "#recycle"):
        (place / "train" / name).mkdir()
    (place / "extra").mkdir()
    about = ImageFolder(path=str(place), root=str(tmp_path / "data")).about()
    assert about.classes == 2
    told = "left out as no images: 8 (#recycle, ._*, .ipynb_checkpoints, @eaDir, Thumbs.db, …)"
    assert about.lacking[-2:] == ("extra/ is not used", told)


def test_a_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "my set (1), [é]", GRADIENT.astype("u1"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NORMBENCH_DATA", "~/data")
    assert ImageFolder(path="~/my set (1), [é]").about().here
    assert (tmp_path / "data").is_dir()
