"""Batches alone, without a model: images on the device against torchvision's in a DataLoader.

MNIST at batch 128 against ToTensor and Normalize; images of the shape of CIFAR with crop, flip and
cutout against torchvision's transforms of one image at a time. Both sides give the same images in
the same order; augmentation is compared with torchvision's functions by the same draws. A figure
is CPU time, that of the loader's workers included; a note tells the ratio in wall time, for which
they have all cores.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torchvision.transforms.functional as tv
from PIL import Image
from run import Case
from step import images as pictures
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from normbench.data._base import Split, split, validation_size
from normbench.data.mnist import MNIST
from normbench.engine.augment import PAD, Augment
from normbench.engine.loader import Feed, Sampling
from normbench.engine.transforms import standardized
from normbench.runtime import machine

BATCH = 128
SHAPE, IMAGES = (3, 32, 32), 50_000
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10
LEAST = 5
TOLERANCE = 1e-5


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR10 gives them: one at a time, transformed."""

    def __init__(self, images: Tensor, transform: Callable[[Any], Tensor]) -> None:
        self.images, self.transform = images.numpy(), transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), 0


def used() -> float:
    """CPU time of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def spent(batches: Callable[[], Iterable[Any]]) -> tuple[float, float]:
    """CPU and wall time of going through some batches once."""
    cpu, wall = used(), time.perf_counter()
    for _ in batches():
        pass
    return used() - cpu, time.perf_counter() - wall


@contextmanager
def all_cores() -> Iterator[None]:
    """Leave the one core to which benchmarks are held, where that can be done."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    one = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    yield
    os.sched_setaffinity(0, one)


def case(
    name: str, feed: Feed, steps: int, data: Dataset[Any], index: Tensor, workers: int
) -> Case:
    """Compare an epoch, or its first `steps`; `index` tells where in `data` our images are."""
    walls: dict[str, list[float]] = {"theirs": [], "ours": []}

    def noted(side: str, seconds: tuple[float, float]) -> float:
        walls[side].append(seconds[1])
        medians = {key: statistics.median(each) for key, each in walls.items() if each}
        if len(medians) == 2:
            found.note = f"wall {medians['theirs'] / medians['ours']:.3g}x"
        return seconds[0]

    def loader() -> Iterable[Any]:
        order = index[feed.order(0, 0, BATCH)[:steps].flatten()].tolist()
        return DataLoader(data, batch_size=BATCH, sampler=order, num_workers=workers)

    def theirs() -> float:
        with all_cores() if workers else nullcontext():
            return noted("theirs", spent(loader))

    def batches() -> Iterable[Any]:
        order = feed.order(0, 0, BATCH)
        noise = feed.augment_noise(0, 0, *order.shape)
        return (
            feed.gather(each, 0, chance) for each, chance in zip(order[:steps], noise, strict=False)
        )

    found = Case(
        name=f"{name}, {steps} batches of {BATCH}, {workers} workers, CPU",
        baseline=theirs,
        ours=lambda: noted("ours", spent(batches)),
        least=LEAST,
        repeats=3,
    )
    return found


def close(ours: Tensor, theirs: Tensor) -> None:
    apart = float((ours - theirs).abs().max())
    if apart > TOLERANCE:
        raise AssertionError(f"the images of the two sides differ by {apart:.2g}")


def mnist(quick: bool) -> list[Case]:
    """MNIST without augmentation."""
    data, theirs = MNIST().load(), pictures()
    feed = Feed(
        data.train, standardized(data.mean, data.std), torch.device("cpu"), torch.contiguous_format
    )
    _, train = split(theirs.targets.numpy(), validation_size(len(theirs)))
    index = torch.from_numpy(train)

    def agree() -> None:
        some = feed.order(0, 0, BATCH)[0]
        close(feed.gather(some)[0], torch.stack([theirs[i][0] for i in index[some].tolist()]))

    steps = 50 if quick else len(feed) // BATCH
    cases = [case("MNIST", feed, steps, theirs, index, workers) for workers in (0, 2)]
    cases[0].agree = agree
    return cases


def cifar(quick: bool) -> list[Case]:
    """Random images of the shape of CIFAR with all augmentation."""
    channels, height, width = SHAPE
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, height, width, channels), generator=random).byte()
    images = Split(pixels.permute(0, 3, 1, 2), torch.zeros(IMAGES, dtype=torch.int64))
    change = Augment(("crop", "flip", "cutout"), SHAPE, MEAN)
    feed = Feed(images, standardized(MEAN, STD), torch.device("cpu"), torch.channels_last)
    feed = feed.for_training(Sampling(augment=change))
    one_by_one = [
        transforms.RandomCrop(height, padding=PAD),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
        transforms.RandomErasing(p=1, scale=(0.25, 0.25), ratio=(1, 1)),  # to 0, the mean
    ]
    data = Pictures(pixels, transforms.Compose(one_by_one))

    def agree() -> None:
        some, noise = torch.arange(BATCH), change.noise(0, 0, 1, BATCH)[0]
        wanted = [by_torchvision(images.images[i], noise[i].tolist()) for i in range(BATCH)]
        close(feed.gather(some, 0, noise)[0], torch.stack(wanted))

    steps = 50 if quick else len(feed) // BATCH
    name, index = "3x32x32 crop+flip+cutout", torch.arange(IMAGES)
    cases = [case(name, feed, steps, data, index, workers) for workers in (0, 2)]
    cases[0].agree = agree
    return cases


def by_torchvision(image: Tensor, noise: list[float]) -> Tensor:
    """One image changed as the draws say."""
    (_, height, width), (down, across, mirrored, y, x) = SHAPE, noise
    places = 2 * PAD + 1
    image = tv.pad(image, [PAD] * 4)
    image = tv.crop(image, int(down * places), int(across * places), height, width)
    image = tv.hflip(image) if mirrored < 0.5 else image
    top, left = int(y * height) - height // 4, int(x * width) - width // 4
    bottom, right = top + height // 2, left + width // 2
    top, left = max(top, 0), max(left, 0)
    colour = torch.tensor([round(255 * each) for each in MEAN], dtype=torch.uint8)
    image = tv.erase(image, top, left, bottom - top, right - left, colour.reshape(3, 1, 1))
    return tv.normalize(image / 255, list(MEAN), list(STD))


def cases(quick: bool) -> list[Case]:
    """List MNIST and the shape of CIFAR, each against a loader without and with 2 workers."""
    machine.prepare(1)
    return [*mnist(quick), *cifar(quick)]
