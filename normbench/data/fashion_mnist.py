"""Fashion-MNIST, downloaded on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from normbench.data._idx import Packed, read
from normbench.data._published import Published

if TYPE_CHECKING:
    from normbench.data._known import Store
    from normbench.data._published import Labelled


@dataclass(frozen=True)
class FashionMNIST(Published):
    """Fashion-MNIST: 70,000 pieces of clothing, 28x28, grey, in 10 classes; downloaded on request.

    Its 60,000 training images are cut into 55,000 to train on and 5,000 for validation. The files
    lie where torchvision looks for them.

    Source: Xiao, Rasul & Vollgraf 2017, Fashion-MNIST, arXiv:1708.07747.
    """

    label: ClassVar[str] = "fashion_mnist"
    address: ClassVar[str] = "https://fashion-mnist.s3.eu-central-1.amazonaws.com/"
    place: ClassVar[str] = "FashionMNIST/raw"
    files: ClassVar[tuple[Packed, ...]] = (
        Packed(
            "train-images-idx3-ubyte.gz",
            26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "",
            (60000, 28, 28),
        ),
        Packed(
            "train-labels-idx1-ubyte.gz",
            29515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "",
            (60000,),
        ),
        Packed(
            "t10k-images-idx3-ubyte.gz",
            4422102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "",
            (10000, 28, 28),
        ),
        Packed(
            "t10k-labels-idx1-ubyte.gz",
            5148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            "",
            (10000,),
        ),
    )
    images: ClassVar[int] = 70_000
    shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    classes: ClassVar[int] = 10
    split: ClassVar[tuple[int, int, int]] = (55_000, 5_000, 10_000)
    names: ClassVar[tuple[str, ...]] = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )

    def read(self, store: Store) -> tuple[Labelled, Labelled]:
        """Read the four files."""
        images, labels, test_images, test_labels = (read(store, file) for file in self.files)
        return (images[..., None], labels), (test_images[..., None], test_labels)
