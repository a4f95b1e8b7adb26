"""What becomes of pixels before a model sees them: scalings, shifts of test images, two domains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from normbench.data._base import Dataset, Split
from normbench.runtime import machine, rng

# What is added to variances of pixels standardized by channel: a feature of little variance, and a
# direction of little, which is mostly noise, are not blown up.
FEATURE_EPS, WHITENING_EPS = 0.01, 0.1
DECADES = 2.0  # uneven features differ by up to so many powers of ten in each direction
EXACT = 2**24 // 255**2  # images whose products of pixels float32 sums without rounding


@dataclass(frozen=True, eq=False)
class Scaling:
    """What a model sees of pixels: y = (pixel * scale + shift) M, in float32.

    Args: scale, shift: numbers, or of shape (C, 1, 1) or (C, H, W). matrix: M, of shape (D, D) with
    D = H W C in the order of (H, W, C), or None for the identity.
    """

    scale: Any
    shift: Any
    matrix: Tensor | None = None

    def to(self, device: torch.device | str) -> Scaling:
        """Return the same on a device."""
        values: list[Any] = [self.scale, self.shift, self.matrix]
        return Scaling(*(value.to(device) if hasattr(value, "to") else value for value in values))

    def laid_out(self, channels: int, width: int) -> Scaling:
        """Return the same with its numbers in memory as those of images, which lie channels-last.

        On a CPU it then takes a fifth of the time.
        """
        scale, shift = (
            value.expand(channels, -1, width).permute(1, 2, 0).contiguous().permute(2, 0, 1)
            if hasattr(value, "expand")
            else value
            for value in (self.scale, self.shift)
        )
        return Scaling(scale, shift, self.matrix)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Scale `pixels` (N, C, H, W), float32 in 0 .. 255, which are overwritten."""
        x = pixels.mul_(self.scale).add_(self.shift)
        if self.matrix is None:
            return x
        count, channels, height, width = x.shape
        with torch.autocast(x.device.type, enabled=False):  # also while bf16 is trained
            y = x.permute(0, 2, 3, 1).reshape(count, -1) @ self.matrix
        return y.reshape(count, height, width, channels).permute(0, 3, 1, 2)


def scaling(kind: str, data: Dataset) -> Scaling:
    """Return the scaling of a data set by the name of the setting `inputs`.

    With p a pixel in 0 .. 255 and z = (p / 255 - mean) / std, mean and std of its channel:
    raw: y = p. standardized: y = z. uneven: y = z 10^u, u from U(-2, 2) for each feature, the same
    for all runs and seeds. per_feature: y = (z - m) / sqrt(v + 0.01), m and v the mean and variance
    of each feature. whitened: y = (z - m) U (S + 0.1)^(-1/2) U^T, U S U^T the covariance of the
    features (ZCA). v and the covariance are biased; they and m are of the images to train on, and
    taken in float64. A feature is one pixel of one channel.

    Source: Bell & Sejnowski 1997, Vision Research 37, for ZCA.
    """
    return KINDS[kind](data)


def standardized(mean: Sequence[float], std: Sequence[float]) -> Scaling:
    """Return z = (pixel / 255 - mean) / std, with a mean and std for each channel."""
    scale = [1 / (255 * s) for s in std]
    shift = [-m / s for m, s in zip(mean, std, strict=True)]
    if len(scale) == 1:  # a plain number is faster
        return Scaling(scale[0], shift[0])
    return Scaling(*(torch.tensor(numbers).reshape(-1, 1, 1) for numbers in (scale, shift)))


def _standardized(data: Dataset) -> Scaling:
    return standardized(data.mean, data.std)


def _raw(data: Dataset) -> Scaling:
    return Scaling(1.0, 0.0)


def _uneven(data: Dataset) -> Scaling:
    draws = torch.rand(data.shape, generator=rng.generator("uneven"), dtype=torch.float64)
    factor = 10 ** (DECADES * (2 * draws - 1))
    scale, shift = _by_channel(data)
    return Scaling((scale * factor).float(), (shift * factor).float())


def _per_feature(data: Dataset) -> Scaling:
    mean, squares = _sums(data.train.images, lambda x: x.square().sum(0))
    scale, shift = _by_channel(data)
    mean, variance = _as_image(data, mean), _as_image(data, squares - mean.square())
    factor = (variance * scale.square() + FEATURE_EPS).rsqrt()
    return Scaling((scale * factor).float(), (-mean * scale * factor).float())


def _whitened(data: Dataset) -> Scaling:
    mean, products = _sums(data.train.images, lambda x: x.T @ x)
    scale, _ = _by_channel(data)
    each = scale.expand(data.shape).permute(1, 2, 0).flatten()
    covariance = (products - torch.outer(mean, mean)) * torch.outer(each, each)
    with machine.one_thread():
        variances, axes = torch.linalg.eigh(covariance)
        matrix = (axes * (variances.clamp(min=0) + WHITENING_EPS).rsqrt()) @ axes.T
    shift = -_as_image(data, mean) * scale
    return Scaling(scale.float(), shift.float(), matrix.float())


KINDS: dict[str, Callable[[Dataset], Scaling]] = {
    "standardized": _standardized,
    "raw": _raw,
    "uneven": _uneven,
    "per_feature": _per_feature,
    "whitened": _whitened,
}


def _by_channel(data: Dataset) -> tuple[Tensor, Tensor]:
    """Scale and shift of standardized pixels in float64, (C, 1, 1)."""
    mean, std = (torch.tensor(by, dtype=torch.float64) for by in (data.mean, data.std))
    return (1 / (255 * std)).reshape(-1, 1, 1), (-mean / std).reshape(-1, 1, 1)


def _as_image(data: Dataset, values: Tensor) -> Tensor:
    """Values of features in the order (H, W, C) as (C, H, W)."""
    channels, height, width = data.shape
    return values.reshape(height, width, channels).permute(2, 0, 1)


def _sums(images: Tensor, moment: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Mean of the features, in the order (H, W, C), and of a second moment, in float64.

    The sums are of integers and exact, so they do not depend on the number of threads.
    """
    rows = images.permute(0, 2, 3, 1).reshape(len(images), -1)
    first: Any = 0
    second: Any = 0
    for start in range(0, len(rows), EXACT):
        x = rows[start : start + EXACT].to(torch.float32)
        first, second = first + x.sum(0).double(), second + moment(x).double()
    return first / len(rows), second / len(rows)


@dataclass(frozen=True)
class Shift:
    """A change of test images, with pixels x in 0 .. 1; the result is clipped to 0 .. 1.

    invert: 1 - x. brightness+a, brightness-a: x + a, x - a. contrast*a: m + a (x - m), m the mean
    of the image in each channel. noise+a: x + a n, n from a standard normal distribution, for each
    image the same in all runs.

    Source: Hendrycks & Dietterich 2019, arXiv 1903.12261 (there brightness is changed in HSV).
    """

    name: str
    sign: str = ""
    size: float = 0.0

    def __call__(self, pixels: Tensor, numbers: Sequence[int]) -> Tensor:
        """Change `pixels` (N, C, H, W) in 0 .. 255, of the images with these `numbers` (N,)."""
        x = pixels / 255
        if self.name == "invert":
            x = 1 - x
        elif self.name == "brightness":
            x = x + (self.size if self.sign == "+" else -self.size)
        elif self.name == "contrast":
            mean = x.mean((2, 3), keepdim=True)
            x = mean + self.size * (x - mean)
        else:
            x = x + self.size * _noise(x, numbers)
        return x.clamp(0, 1) * 255


def _noise(x: Tensor, numbers: Sequence[int]) -> Tensor:
    """Normal numbers for each image from a generator of its own: no matter how batches are cut."""
    draws = [
        torch.randn(x.shape[1:], generator=rng.generator("noise of a test image", number))
        for number in numbers
    ]
    return torch.stack(draws).to(x.device)


def inverted_half(labels: Tensor) -> Tensor:
    """Tell which images of a part, by `labels` (N,), are of the second domain: bool (N,).

    Of each pair of images of a class, in their order, a hash of class and pair chooses one. So
    domains are stratified, the same for all seeds, and the same in a smaller part.
    """
    seen: Counter[int] = Counter()
    chosen = []
    for label in labels.tolist():
        pair, second = divmod(seen[label], 2)
        chosen.append(rng.derive("mix", label, pair) % 2 == second)
        seen[label] += 1
    return torch.tensor(chosen, dtype=torch.bool)


def mixed(data: Dataset) -> Dataset:
    """Return the data with half of all images inverted and of half the contrast.

    x' = 0.75 - x / 2 for pixels x in 0 .. 1, so that black becomes 0.75 and white 0.25. `mean` and
    `std` become those of the mixture: with those of the whole set m, s and m' = 0.75 - m / 2,
    mean = (m + m') / 2, std^2 = (s^2 + s^2 / 4) / 2 + ((m - m') / 2)^2.
    """
    means, stds = [], []
    for m, s in zip(data.mean, data.std, strict=True):
        other = 0.75 - m / 2
        means.append((m + other) / 2)
        stds.append(((s**2 + s**2 / 4) / 2 + ((m - other) / 2) ** 2) ** 0.5)
    train, val, test = map(_mixed, (data.train, data.val, data.test))
    return replace(data, train=train, val=val, test=test, mean=tuple(means), std=tuple(stds))


def _mixed(part: Split) -> Split:
    second = inverted_half(part.labels)
    images = part.images.clone()  # in the same order in memory
    images[second] = 191 - images[second] // 2  # 255 x', rounded
    return replace(part, images=images)
