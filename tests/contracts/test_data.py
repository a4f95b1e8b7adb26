"""The contract of every data set, and the rule that splits them.

An oracle file holds
    OPTIONS            option sets to run, beside what `prepare` gives
    prepare(folder)    makes the files of the set below `folder` once; the options that find them
    source(folder, options)  the set read another way: images uint8 (N, C, H, W) and labels of
                       `train` before anything is cut from it, `test`, and `val` if it has one
    constants(folder)  where the files that `prepare` makes are not the real ones: what the class
                       says of them
    CLASSES, SIZES     class names; images in train, val, test
    FIXED              digest of the first option set's labels and pixels in the order of use
    REFUSED            (options, text of the error)
"""

import hashlib
import re
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from normbench.data._base import PixelMoments, balanced, mixed, split, spread, validation_size
from normbench.data.mnist import MNIST
from normbench.data.synthetic import USUAL, Synthetic, content_digest
from normbench.errors import DataError
from normbench.parts import registry

NAMES = registry.names("data")
ORACLES = {
    name: SimpleNamespace(
        **runpy.run_path(str(Path(__file__).parents[1] / f"oracles/data/{name}.py"))
    )
    for name in NAMES
}
CASES = [(name, index) for name in NAMES for index in range(len(ORACLES[name].OPTIONS))]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request, tmp_path_factory):
    """A data set with its options, loaded, and the same set as its oracle reads it."""
    name, index = request.param
    oracle = ORACLES[name]
    folder = tmp_path_factory.getbasetemp() / f"set-{name}"
    folder.mkdir(exist_ok=True)
    options = {**oracle.prepare(folder), **oracle.OPTIONS[index]}
    kind = registry.find("data", name)
    if hasattr(oracle, "constants"):
        kind = type(kind.__name__, (kind,), oracle.constants(folder))
    return SimpleNamespace(
        oracle=oracle,
        index=index,
        kind=kind,
        options=options,
        data=kind(**options).load(),
        about=kind(**options).about(),
        source=oracle.source(folder, options),
    )


def bag(images, labels):
    """How often each image stands there with which label."""
    pixels = np.ascontiguousarray(images)
    return Counter((each.tobytes(), int(y)) for each, y in zip(pixels, labels, strict=True))


def test_what_is_known_before_loading_is_so(case):
    loaded, about = case.data, case.about
    assert about.label == loaded.label
    assert about.shape == loaded.shape == case.source["train"][0].shape[1:]
    assert about.sizes == (len(loaded.train), len(loaded.val), len(loaded.test))
    assert about.classes == len(loaded.classes)
    assert loaded.classes == case.oracle.CLASSES
    assert about.here


def test_the_parts_have_their_sizes(case):
    assert case.about.sizes == case.oracle.SIZES


def test_images_are_bytes_and_labels_are_classes(case):
    for part in (case.data.train, case.data.val, case.data.test):
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert part.images.shape == (len(part), *case.data.shape)
        assert set(part.labels.tolist()) <= set(range(len(case.data.classes)))


def test_images_lie_channels_last(case):
    channels, _, width = case.data.shape
    assert case.data.train.images.stride()[1:] == (1, width * channels, channels)


def test_train_and_val_are_the_training_images_and_test_is_the_test(case):
    loaded, source = case.data, case.source
    train, val, test = (
        bag(part.images, part.labels) for part in (loaded.train, loaded.val, loaded.test)
    )
    assert train + val == bag(*source["train"])
    assert test == bag(*source["test"])
    if "val" in source:
        assert val == bag(*source["val"])


def test_the_validation_part_is_stratified(case):
    labels = case.source["train"][1]
    share = np.bincount(labels) * len(case.data.val) / len(labels)
    counts = np.bincount(case.data.val.labels, minlength=len(share))
    assert abs(counts - share).max() <= 1


def test_mean_and_deviation_are_of_the_whole_training_set(case):
    images = case.source["train"][0]
    value = np.arange(256) / 255
    for channel in range(images.shape[1]):
        count = sum(
            np.bincount(images[start : start + 5000, channel].ravel(), minlength=256)
            for start in range(0, len(images), 5000)
        )
        mean = (count * value).sum() / count.sum()
        variance = (count * (value - mean) ** 2).sum() / count.sum()
        assert case.data.mean[channel] == pytest.approx(mean, rel=1e-12)
        assert case.data.std[channel] == pytest.approx(variance**0.5, rel=1e-12)


def test_a_subset_is_balanced_and_the_beginning_of_a_larger_one(case):
    labels = case.data.train.labels
    small = min(torch.bincount(labels).tolist()) * len(case.data.classes)
    for size in (1, small // 2, small, len(labels)):
        part = case.kind(**case.options, train_size=size).load().train
        counts = torch.bincount(part.labels, minlength=len(case.data.classes))
        assert len(part) == size
        assert torch.equal(part.images, case.data.train.images[:size])
        assert torch.equal(part.labels, labels[:size])
        assert size > small or counts.max() - counts.min() <= 1


def test_a_subset_is_known_before_loading(case):
    size = case.about.classes
    about = case.kind(**case.options, train_size=size).about()
    assert about.sizes == (size, *case.about.sizes[1:])
    assert about.digest == case.about.digest


def test_loading_again_gives_the_same(case):
    again = case.kind(**case.options).load()
    for name in ("train", "val", "test"):
        assert torch.equal(getattr(again, name).images, getattr(case.data, name).images)
        assert torch.equal(getattr(again, name).labels, getattr(case.data, name).labels)


@pytest.mark.parametrize("case", [(name, 0) for name in NAMES], indirect=True)
def test_the_order_of_use_never_changes(case):
    digest = hashlib.sha256()
    for part in (case.data.train, case.data.val, case.data.test):
        digest.update(part.images.numpy().tobytes() + part.labels.numpy().tobytes())
    assert digest.hexdigest() == case.oracle.FIXED


def test_a_part_moves_to_a_device(case):
    moved = case.data.val.to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert case.data.val.to("cpu").images is case.data.val.images


REFUSALS = [
    pytest.param(name, options, text, id=f"{name}-{list(options)[0]}-{index}")
    for name in NAMES
    for index, (options, text) in enumerate(ORACLES[name].REFUSED)
]


@pytest.mark.parametrize(("name", "options", "text"), REFUSALS)
def test_wrong_options_are_refused_with_what_would_work(name, options, text, tmp_path):
    given = {**ORACLES[name].prepare(tmp_path), **options}
    with pytest.raises(DataError) as caught:
        registry.find("data", name)(**given).about()
    assert re.match(f"normbench: error: {text}", str(caught.value), re.DOTALL)
    assert caught.value.code == 2


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_loading_imports_torch(name, tmp_path):
    options = ORACLES[name].prepare(tmp_path)
    code = f"""if 1:
        import sys
        from normbench.parts import registry
        registry.find("data", {name!r})(**{options!r}).about()
        sys.exit("torch" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


LABELS = np.repeat([2, 0, 1], [50, 30, 7])


def test_counters_are_hashed_as_splitmix64_does():
    # The published generator from seed 1234567 gives these first.
    first = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    golden = 0x9E3779B97F4A7C15
    start = 1234567 * pow(golden, -1, 2**64) % 2**64  # the counter that stands for this seed
    assert mixed(np.arange(start, start + 3, dtype=np.uint64)).tolist() == first


def test_prefixes_of_the_spread_order_have_each_class_in_proportion():
    order = spread(LABELS)
    share = np.bincount(LABELS) / len(LABELS)
    assert sorted(order) == list(range(len(LABELS)))
    for n in range(len(LABELS) + 1):
        counts = np.bincount(LABELS[order[:n]], minlength=3)
        assert abs(counts - n * share).max() <= 1


def test_prefixes_of_the_balanced_order_have_equally_many_of_each_class():
    order = balanced(LABELS, spread(LABELS))
    assert sorted(order) == list(range(len(LABELS)))
    for n in range(len(LABELS) + 1):
        counts = np.bincount(LABELS[order[:n]], minlength=3)
        unfinished = counts[counts < np.bincount(LABELS)]
        assert len(unfinished) == 0 or counts.max() <= unfinished.min() + 1


def test_parts_are_disjoint_and_complete():
    first, second, rest = split(LABELS, 10, 20)
    assert (len(first), len(second), len(rest)) == (10, 20, len(LABELS) - 30)
    assert sorted([*first, *second, *rest]) == list(range(len(LABELS)))


@pytest.mark.parametrize(("training", "size"), [(60_000, 5000), (20_000, 5000), (19_999, 1999)])
def test_large_sets_give_5000_images_for_validation_and_small_ones_a_tenth(training, size):
    assert validation_size(training) == size


def test_a_channel_without_contrast_has_deviation_one():
    moments = PixelMoments(2)
    moments.add(np.stack([np.zeros((4, 3, 3)), np.full((4, 3, 3), 255)], 3).astype("u1"))
    assert (moments.mean(), moments.std()) == ((0, 1), (1, 1))


def test_mnist_with_3500_images_has_350_of_each_digit():
    labels = MNIST(train_size=3500).load().train.labels
    assert torch.bincount(labels).tolist() == [350] * 10


def test_the_known_digest_of_the_synthetic_set_is_that_of_its_content():
    assert Synthetic().about().digest == content_digest(*USUAL)


def test_other_shapes_of_the_synthetic_set_have_other_digests():
    digests = [Synthetic(shape=[1, 8, 8], classes=k).about().digest for k in (2, 3)]
    assert len({*digests, Synthetic().about().digest}) == 3


def test_the_synthetic_set_can_be_learned():
    loaded = Synthetic().load()
    means = torch.stack(
        [loaded.train.images[loaded.train.labels == k].double().mean(0) for k in range(10)]
    )
    distance = torch.cdist(loaded.test.images.double().flatten(1), means.flatten(1))
    accuracy = (distance.argmin(1) == loaded.test.labels).double().mean()
    assert accuracy > 0.6


def test_downloads_and_copies_lie_where_root_or_the_environment_says(monkeypatch):
    monkeypatch.delenv("NORMBENCH_DATA", raising=False)
    assert Synthetic().folder() == Path("data")
    monkeypatch.setenv("NORMBENCH_DATA", "/srv/sets")
    assert Synthetic().folder() == Path("/srv/sets")
    assert Synthetic(root="here").folder() == Path("here")
