"""Scaled residual branches that start as zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.inits._base import LAYERS, Init, fans, gain_of, linear_layers


@dataclass(frozen=True)
class Fixup(Init):
    """Residual branches that start as zero, so that nets without a norm do not explode with depth.

    w ~ N(0, s^2), s = gain / sqrt(fan_in), as kaiming_normal; in a residual branch of m layers, of
    L branches, all but the last times L^(-1/(2m - 2)); the last layer of each branch and the
    classifier w = 0; b = 0; gain: the activation's, sqrt(2) for relu. Meant for `norm=none`.

    Raises: InitError for models without residual branches, and for norms of weights: they take
        the place of the scale, and a weight of zeros has no direction.
    Limits: the last of the paper's three rules is left out, as it changes the model: a scalar
        multiplier for each branch is not there, and in place of the scalar biases around each layer
        there are the biases of the layers, one for each channel.
    Source: Zhang, Dauphin & Ma 2019, arXiv 1901.09321, section 3.
    """

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` of a layer before the activation `act`."""
        weight.normal_(0, gain_of(act) / math.sqrt(fans(weight)[0]), generator=generator)

    def factors(self, model: nn.Module) -> Mapping[nn.Module, float]:
        """Return the factors of the layers in branches, and 0 for the classifier."""
        branches = _branches(model)
        factors: dict[nn.Module, float] = {}
        for *inner, last in branches:
            if inner:
                scale = len(branches) ** (-1 / (2 * len(inner)))
                factors.update(dict.fromkeys(inner, scale))
            factors[last] = 0.0
        heads = (layer for layer in model.modules() if hasattr(layer, "classifies"))
        return {**factors, **dict.fromkeys(heads, 0.0)}

    def check(self, model: nn.Module) -> None:
        """Raise InitError if there are no branches, or a norm has replaced their layers."""
        if not any(getattr(block, "branch", ()) for block in model.modules()):
            why = "this model tells of no residual branches"
            raise self.error("", "fixup", why, "model=resnet20")
        layers = (layer for layer, _ in linear_layers(model))
        replaced = {type(layer).__name__ for layer in layers if not isinstance(layer, LAYERS)}
        if replaced:
            why = f"{', '.join(sorted(replaced))} cannot start from scaled and zero weights"
            raise self.error("", "fixup", why, "norm=none")


def _branches(model: nn.Module) -> list[list[nn.Module]]:
    """List the linear layers of each residual branch, in order."""
    branches: list[list[nn.Module]] = []
    for block in model.modules():
        names: tuple[str, ...] = getattr(block, "branch", ())
        inside = (layer for name in names for layer in block.get_submodule(name).modules())
        branches.append([layer for layer in inside if isinstance(layer, LAYERS)])
    return [branch for branch in branches if branch]
