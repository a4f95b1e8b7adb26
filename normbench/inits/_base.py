"""What every initializer shares: which tensors are weights, their fans, and their own generators.

An initializer fills the weights of plain Linear and Conv layers, before norms replace any of
them. Each parameter has a generator derived from the seed and its path, so that a norm, a bias or
a layer more does not shift the draws of the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench import seeds
from normbench.errors import InitError
from normbench.options import Options

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class Init(Options):
    """The options of an initializer and how it fills one weight and one bias."""

    error: ClassVar[type[InitError]] = InitError

    def weight(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` (out, in, ...) in place; `act` is the name of the run's activation."""
        raise NotImplementedError

    def bias(self, bias: Tensor, weight: Tensor, generator: torch.Generator) -> None:
        """Fill the `bias` (out,) of the layer with `weight` in place: zeros unless overridden."""
        bias.zero_()


@torch.no_grad()
def initialize(model: nn.Module, init: Init, act: str, seed: int) -> None:
    """Fill every weight and bias of the linear layers of `model`; all other parameters stay."""
    for path, layer in model.named_modules():
        if not isinstance(layer, LAYERS):
            continue
        init.weight(layer.weight, act, seeds.generator(seed, "init", f"{path}.weight"))
        if layer.bias is not None:
            generator = seeds.generator(seed, "init", f"{path}.bias")
            init.bias(layer.bias, layer.weight, generator)


def fans(weight: Tensor) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight (out, in, ...): units times receptive field."""
    field = math.prod(weight.shape[2:])
    return weight.shape[1] * field, weight.shape[0] * field


def gain_of(act: str) -> float:
    """Return the factor on the standard deviation that keeps variance through an activation.

    relu and its relatives (gelu, silu, tlu): sqrt(2); leaky_relu: sqrt(2 / (1 + 0.01^2)); tanh:
    5/3; sigmoid and identity: 1. As `torch.nn.init.calculate_gain`.
    """
    if act == "leaky_relu":
        return math.sqrt(2 / (1 + 0.01**2))
    return {"tanh": 5 / 3, "sigmoid": 1.0, "identity": 1.0}.get(act, math.sqrt(2))
