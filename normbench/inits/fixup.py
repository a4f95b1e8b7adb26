"""Scaled residual branches that start as zero."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.inits._base import LAYERS, Init, fans, gain_of, linear_layers
from normbench.inits._residual import Factor, branches_of, check_residual, put, residual
from normbench.norms._units import Unit


@dataclass(frozen=True)
class Fixup(Init):
    """Residual branches that start as zero, so that nets without a norm do not explode with depth.

    w ~ N(0, s^2), s = gain / sqrt(fan_in), as kaiming_normal; in a residual branch of m layers, of
    L branches, all but the last times L^(-1/(2m - 2)); the last layer of each branch and the
    classifier w = 0; gain: the activation's, sqrt(2) for relu. A learned number, 0 at first, is
    added to the input of each linear layer and of each activation, in place of the biases of all
    layers but the classifier, and one, 1 at first, multiplies each branch. Meant for `norm=none`.

    Raises: InitError for models without residual branches, and for norms of weights: they take
        the place of the scale, and a weight of zeros has no direction.
    Limits: the paper's experiments give the learned numbers a tenth of the learning rate; here they
        have that of all other parameters.
    Source: Zhang, Dauphin & Ma 2019, arXiv 1901.09321, section 3, all three rules.
    """

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` of a layer before the activation `act`."""
        weight.normal_(0, gain_of(act) / math.sqrt(fans(weight)[0]), generator=generator)

    def factors(self, model: nn.Module) -> Mapping[nn.Module, float]:
        """Return the factors of the layers in branches, and 0 for the classifier."""
        branches = branches_of(model)
        factors: dict[nn.Module, float] = {}
        for *inner, last in branches:
            if inner:
                scale = len(branches) ** (-1 / (2 * len(inner)))
                factors.update(dict.fromkeys(inner, scale))
            factors[last] = 0.0
        heads = (layer for layer in model.modules() if hasattr(layer, "classifies"))
        return {**factors, **dict.fromkeys(heads, 0.0)}

    def extend(self, model: nn.Module) -> None:
        """Put the learned numbers into the units, and before the classifier."""
        ends = [block.get_submodule(names[-1]) for block, names in residual(model)]
        for module in list(model.modules()) if ends else []:
            if isinstance(module, Unit):
                _add_scalars(module, module in ends)
            elif any(hasattr(child, "classifies") for child in module.children()):
                put(module, _shifted(module))

    def check(self, model: nn.Module) -> None:
        """Raise InitError if there are no branches, or a norm has replaced their layers."""
        check_residual(self, "fixup", model)
        layers = (layer for layer, _ in linear_layers(model))
        replaced = {type(layer).__name__ for layer in layers if not isinstance(layer, LAYERS)}
        if replaced:
            why = f"{', '.join(sorted(replaced))} cannot start from scaled and zero weights"
            raise self.error("", "fixup", why, "norm=none")


class Shift(nn.Module):
    """Adds one learned number, 0 at first, to all values."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (N, ...) plus the number."""
        return x + self.shift


def _add_scalars(unit: Unit, ends: bool) -> None:
    """Add shifts to a unit in place of its bias, and to the last one of a branch its factor."""
    children = list(_shifted(unit))
    if ends:
        children.append(("factor", Factor(1.0)))
        if not any(name == "act" for name, _ in children):
            children.append(("shift", Shift()))  # before the activation of the sum
    for layer in (child for _, child in children if isinstance(child, LAYERS)):
        layer.register_parameter("bias", None)
    put(unit, children)


def _shifted(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the children of a module, a shift before each linear layer and each activation."""
    for name, child in module.named_children():
        if isinstance(child, LAYERS) or hasattr(child, "acts"):
            yield f"{name}_shift", Shift()
        yield name, child
