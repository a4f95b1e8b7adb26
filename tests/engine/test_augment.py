"""Augmentation: whole batches against torchvision's functions on one image at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision.transforms.functional as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from normbench.engine import augment
from normbench.engine.augment import Augment
from normbench.errors import Refused
from normbench.runs import build
from normbench.runs.job import Job
from normbench.settings import compose, inputs
from normbench.settings.schema import Config

SMALL = ("data=synthetic", "data.shape=[3,8,8]", "device=cpu", "model=mlp", "model.width=16")
ALL = ("crop", "flip", "cutout")
EVERY = [(), *[(kind,) for kind in ALL], ("crop", "cutout"), ("crop", "flip"), ALL]
MEAN = (0.1, 0.5, 0.902)
COLOUR = (26, 128, 230)  # 25.5, 127.5 and 230.01, a half rounded to even
CHANCE = st.one_of(st.sampled_from([0.0, 0.5, 1 - 2**-24]), st.floats(0, 1 - 2**-24, width=32))


def configs(*words: str) -> list[Config | None]:
    given = {word.partition("=")[0] for word in words}
    base = [word for word in SMALL if word.partition("=")[0] not in given]
    return [cell.config for cell in compose.Grid(compose.loader()).cells([*base, *words], True)]


def job(*words: str) -> Job:
    (found,) = configs(*words)
    assert found
    return Job(found)


def one_by_one(image: Tensor, kinds: tuple[str, ...], noise: Tensor) -> Tensor:
    """The image (C, H, W) as torchvision's transforms leave it where they draw these numbers."""
    channels, height, width = image.shape
    down, across, mirrored, y, x = noise
    if "crop" in kinds:
        padded = tv.pad(image, [4, 4, 4, 4])
        image = tv.crop(padded, int(down * 9), int(across * 9), height, width)
    if "flip" in kinds and mirrored < 0.5:
        image = tv.hflip(image)
    if "cutout" in kinds:
        side = min(height, width) // 2
        top, left = int(y * height) - side // 2, int(x * width) - side // 2
        bottom, right = min(top + side, height), min(left + side, width)
        top, left = max(top, 0), max(left, 0)
        colour = torch.tensor(COLOUR[:channels], dtype=torch.uint8).reshape(-1, 1, 1)
        image = tv.erase(image, top, left, bottom - top, right - left, colour)
    return image


def as_rows(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1).reshape(len(images), -1)


def pixels(count: int, shape: tuple[int, int, int]) -> Tensor:
    return torch.randint(
        0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(EVERY),
    st.sampled_from([(3, 32, 32), (1, 28, 28), (2, 5, 9), (3, 12, 7)]),
    st.lists(st.tuples(*[CHANCE] * 5), min_size=1, max_size=6),
)
def test_a_batch_is_what_torchvision_makes_of_each_image(
    kinds: tuple[str, ...], shape: tuple[int, int, int], drawn: list[Any]
) -> None:
    images, noise = pixels(len(drawn), shape), torch.tensor(drawn, dtype=torch.float32)
    rows = as_rows(images)
    found = Augment(kinds, shape, MEAN[: shape[0]])(rows, noise)
    pairs = zip(images, noise, strict=True)
    expected = as_rows(torch.stack([one_by_one(image, kinds, each) for image, each in pairs]))
    assert torch.equal(found, expected)
    assert torch.equal(rows, as_rows(images))  # the data set itself stays as it is


def test_crops_go_to_all_places_and_half_of_the_images_are_mirrored() -> None:
    noise = Augment(ALL, (1, 8, 8), (0.5,)).noise(0, 0, 100, 100)
    places = (noise[..., :2] * 9).long()
    counts = torch.bincount((places[..., 0] * 9 + places[..., 1]).flatten(), minlength=81)
    assert int(counts.min()) > 70 and int(counts.max()) < 185  # 123 expected, +- 5 deviations
    assert float((noise[..., 2] < 0.5).double().mean()) == pytest.approx(0.5, abs=0.025)


def test_draws_depend_on_seed_and_epoch_only() -> None:
    one, other = Augment(("crop",), (1, 8, 8), (0.5,)), Augment(ALL, (3, 32, 32), MEAN)
    assert torch.equal(one.noise(3, 1, 5, 4), other.noise(3, 1, 5, 4))
    assert not torch.equal(one.noise(3, 1, 5, 4), one.noise(3, 2, 5, 4))
    assert not torch.equal(one.noise(3, 1, 5, 4), one.noise(4, 1, 5, 4))


def test_training_batches_are_augmented_and_then_scaled() -> None:
    plain, changed = job("augment=none").train, job("augment=crop+flip+cutout").train
    index = changed.order(0, 0, 50)[3]
    noise = list(changed.augment_noise(0, 0, 40, 50))[3]
    assert changed.sampling.augment and noise is not None
    twin = job("augment=none").train
    twin.rows = changed.sampling.augment(plain.rows[index], noise)
    x, y = changed.gather(index, 0, noise)
    assert torch.equal(x, twin.gather(torch.arange(0, 50))[0])
    assert torch.equal(y, plain.labels[index])


def test_cutout_leaves_the_mean_behind() -> None:
    made = job("augment=cutout")
    feed, data = made.train, build.data(made.config)
    middle = torch.full((10, 5), 0.5)
    x, _ = feed.gather(torch.arange(10), 0, middle)
    hidden = x[:, :, 2:6, 2:6]  # half of the side of 8, around pixel 4
    assert float(hidden.abs().max()) <= 0.5 / (255 * min(data.std))  # half a grey level
    assert float(x[:, :, :2].abs().mean()) > 0.1


def test_blank_time_steps_stay_before_an_augmented_image() -> None:
    words = ("data=synthetic", "data.shape=[3,8,8]", "model=rnn", "blank_steps=3")
    (cell,) = compose.Grid(compose.loader()).cells([*words, "augment=crop+flip+cutout"], False)
    assert cell.config
    feed = Job(cell.config).train
    noise = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    index = torch.arange(6)
    led, alone = (feed.gather(index, lead, noise)[0] for lead in (2, 0))
    assert led.shape[2] == 10
    assert torch.equal(led[:, :, 2:], alone)


def test_only_training_batches_are_augmented() -> None:
    plain, changed = job("augment=none"), job("augment=crop+flip+cutout")
    assert torch.equal(
        changed.train.gather(torch.arange(0, 99))[0], plain.train.gather(torch.arange(0, 99))[0]
    )  # statistics
    index = torch.arange(9)  # data-dependent starts
    assert torch.equal(changed.train.gather(index)[0], plain.train.gather(index)[0])
    for name, feed in {"val": changed.evaluator.val, **changed.evaluator.tests}.items():
        same = plain.evaluator.val if name == "val" else plain.evaluator.tests[name]
        assert feed.sampling.augment is None
        assert torch.equal(same.gather(torch.arange(0, 99))[0], feed.gather(torch.arange(0, 99))[0])


def test_an_augmented_run_repeats_itself_and_differs_from_a_plain_one() -> None:
    def digest(words: str) -> str:
        made = job(words, "steps=10", "batch=32")
        list(made.rows())
        return made.state_sha256()

    assert digest("augment=flip+crop") == digest("augment=crop+flip")
    assert len({digest(f"augment={each}") for each in ("none", *ALL)}) == 4


def test_one_run_has_one_name_in_whatever_order_its_augmentation_is_written() -> None:
    found = configs("augment=crop+flip+cutout,cutout+crop+flip,flip+cutout,cutout+flip,none")
    names = [each.name for each in found if each]
    assert names[0] == names[1] and names[2] == names[3]
    assert len(set(names)) == 3
    assert found[1] and found[1].augment == "crop+flip+cutout"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("augment=flop", "augment=flop: flop is none of crop, flip, cutout\n  try: augment=flip"),
        (
            "augment=cut+crop",
            "augment=cut+crop: cut is none of crop, flip, cutout\n  try: augment=crop+cutout",
        ),
        (
            "augment=none+flip",
            "augment=none+flip: none is none of crop, flip, cutout\n  try: augment=flip",
        ),
        ("augment=''", "augment=: is empty\n  try: augment=none"),
        ("augment=flip+flip", "augment=flip+flip: contains a duplicate\n  try: augment=flip"),
        (
            "augment=crop+flip data.shape=[3,4,9]",
            "augment=crop+flip: images of 4x9 pixels are too small for it\n  try: augment=flip",
        ),
        ("augment=true", "augment=true: is not a word\n  try: augment=none"),
    ],
)
def test_what_is_no_augmentation_is_refused(words: str, text: str) -> None:
    with pytest.raises(Refused) as error:
        configs(*words.split())
    assert str(error.value) == f"normbench: error: {text}"


def test_the_settings_know_the_padding_of_a_crop() -> None:
    assert inputs.PAD == augment.PAD
