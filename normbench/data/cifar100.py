"""CIFAR-100, downloaded on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from normbench.data._cifar import CIFAR
from normbench.data._known import Known

NAMES = """\
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle
bowl boy bridge bus butterfly camel can castle caterpillar cattle
chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
plain plate poppy porcupine possum rabbit raccoon ray road rocket
rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
train trout tulip turtle wardrobe whale willow_tree wolf woman worm"""


@dataclass(frozen=True)
class CIFAR100(CIFAR):
    """CIFAR-100: 60,000 photographs, 32x32, in colour, in 100 classes; downloaded on request.

    Its 50,000 training images are cut into 45,000 to train on and 5,000 for validation. The labels
    are the fine ones. The binary version is read, for the one that torchvision reads is pickled.

    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.
    """

    label: ClassVar[str] = "cifar100"
    place: ClassVar[str] = "cifar100"
    files: ClassVar[tuple[Known, ...]] = (
        Known(
            "cifar-100-binary.tar.gz",
            168513733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
    )
    classes: ClassVar[int] = 100
    names: ClassVar[tuple[str, ...]] = tuple(NAMES.split())
    train: ClassVar[tuple[str, ...]] = ("cifar-100-binary/train.bin",)
    test: ClassVar[str] = "cifar-100-binary/test.bin"
    label_bytes: ClassVar[int] = 2  # the coarse and the fine one
