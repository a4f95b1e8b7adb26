"""Normalization propagation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench.norms._base import Norm
from normbench.norms._weights import Linear, check_rows, column, row_norms
from normbench.parts.options import option

MEAN = math.sqrt(1 / (2 * math.pi))  # of relu(z), z ~ N(0, 1)
DEVIATION = math.sqrt((1 - 1 / math.pi) / 2)


@dataclass(frozen=True)
class NormProp(Norm):
    """Normalization propagation: unit weight vectors, and relu shifted and scaled to unit variance.

    u = gamma * <w / |w|, x> + bias;  y = (relu(u) - sqrt(1/(2 pi))) / sqrt((1 - 1/pi) / 2);
    w: (out, in, ...), |w| over all axes but the first; gamma, bias: (out,), learned, bias starts at
    0. The same in training and evaluation. With gamma = 1 and bias = 0, independent inputs of mean
    0 and variance 1 give such outputs: the data must be standardized; correlated patches and
    residual sums break the assumption. Wants a smaller learning rate than bn.

    Args: gamma: what gamma starts at; the default, sqrt(1 - 1/pi), keeps the singular values of a
        layer's Jacobian near 1. affine: learn gamma and bias; without, they are 1 and 0.
    Raises: NormError if a row of the weight is zero, or for an activation other than relu.
    Limits: relu only; holds for standardized and independent inputs, and at the start of training.
    Source: Arpit et al. 2016, arXiv 1603.01431, eqs. 4 to 8.
    """

    bias: ClassVar[bool] = False
    places: ClassVar[tuple[str, ...]] = ("pre",)
    own_activation: ClassVar[bool] = True
    parameters: ClassVar[str] = "2 C"

    gamma: float = option(0.8256452711765563, above=0)
    affine: bool = True

    def linear(self, layer: nn.Module) -> nn.Module:
        """Return the layer with its weight vectors scaled to length gamma, and a bias."""
        return UnitLinear(layer, self.gamma if self.affine else None)

    def activation(self, act: nn.Module | None, channels: int, dims: int) -> nn.Module:
        """Return relu with mean 0 and variance 1 for standard normal inputs."""
        if act is not None and not isinstance(act, nn.ReLU):
            name = type(act).__name__.lower()
            raise self.error("", "normprop", f"is made for relu, not {name}", "activation=auto")
        return StandardReLU()


class UnitLinear(Linear):
    """A linear layer with weight vectors of length gamma; keeps the raw weight."""

    scaled_by: ClassVar[str | None] = "gamma"
    gamma: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, layer: nn.Module, gamma: float | None) -> None:
        super().__init__(layer)
        self.weight = layer.get_parameter("weight")
        norms = row_norms(self.weight.detach())
        check_rows(self, norms)
        self.gamma = self.bias = None
        if gamma is not None:
            self.gamma = nn.Parameter(torch.full_like(norms, gamma))
            self.bias = nn.Parameter(torch.zeros_like(norms))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` of shape (N, in) or (N, C, H, W)."""
        norms = row_norms(self.weight)
        scale = norms.reciprocal() if self.gamma is None else self.gamma / norms
        return self.linear(x, self.weight * column(scale, self.weight), self.bias)


class StandardReLU(nn.Module):
    """relu, minus its mean and divided by its standard deviation for z ~ N(0, 1)."""

    steepest = 1 / DEVIATION

    def forward(self, x: Tensor) -> Tensor:
        """Return (relu(x) - sqrt(1/(2 pi))) / sqrt((1 - 1/pi) / 2)."""
        return torch.relu(x) * (1 / DEVIATION) - MEAN / DEVIATION
