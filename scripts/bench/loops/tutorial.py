"""A tutorial's loop: torchvision's MNIST, a DataLoader, torch.optim.SGD, `loss.item()`.

As a script it trains and tests one run, as `naive_sweep` does one after the other.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

RAW = Path(__file__).resolve().parents[3] / "normbench/data/files"
MEAN, STD = (0.1307,), (0.3081,)  # as every tutorial has them
RATE, AT = 0.03, 64  # learning rate, and the batch that it is for


def unpack(root: Path) -> None:
    """Put MNIST's files where torchvision looks for them."""
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True)
    for file in RAW.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))


def data(
    root: Path, train: bool, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> datasets.MNIST:
    """Read the images as a tutorial does."""
    how = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    return datasets.MNIST(str(root), train, transform=how)


def network(model: str, norm: str) -> nn.Sequential:
    """Build the mlp or the cnn of torch's layers."""
    if model == "mlp":
        layers: list[nn.Module] = [nn.Flatten()]
        for features in (784, 100, 100):
            layers += [nn.Linear(features, 100), *normed(norm, 100, 0), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(100, 10))
    one = [nn.Conv2d(1, 16, 3, padding=1), *normed(norm, 16, 2), nn.ReLU(), nn.MaxPool2d(2)]
    two = [nn.Conv2d(16, 32, 3, padding=1), *normed(norm, 32, 2), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*one, *two, nn.Flatten(), nn.Linear(1568, 10))


def normed(norm: str, channels: int, dims: int) -> list[nn.Module]:
    """Give the norm's layer, or nothing."""
    made = {
        "none": [],
        "bn": [nn.BatchNorm2d(channels) if dims else nn.BatchNorm1d(channels)],
        "gn": [nn.GroupNorm(8 if channels % 8 == 0 else 10, channels)],
    }
    return made[norm]


class Tutorial:
    """Trains a model on the batches of a loader."""

    def __init__(self, model: nn.Module, loader: DataLoader, lr: float) -> None:
        self.model, self.batches = model.train(), iter(loader)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        self.losses: list[float] = []

    def train(self, steps: int) -> None:
        """Train some steps."""
        for x, y in islice(self.batches, steps):
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.item())


@torch.no_grad()
def test(model: nn.Module, loader: DataLoader) -> float:
    """Give the accuracy."""
    model.eval()
    right = total = 0
    for x, y in loader:
        right += (model(x).argmax(1) == y).sum().item()
        total += len(y)
    return right / total


def main() -> None:
    """Train and test one run, and print its accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    for name, kind in (("model", str), ("norm", str), ("batch", int), ("seed", int)):
        parser.add_argument(name, type=kind)
    parser.add_argument("images", type=int, help="to train on")
    parser.add_argument("steps", type=int)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    images = Subset(data(options.root, train=True), range(options.images))
    loader = DataLoader(images, options.batch, shuffle=True, drop_last=True)
    model = network(options.model, options.norm)
    trained = Tutorial(model, loader, RATE * options.batch / AT)
    trained.train(options.steps)
    print(test(model, DataLoader(data(options.root, train=False), 128)))


if __name__ == "__main__":
    main()
