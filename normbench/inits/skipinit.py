"""Residual branches with a learned factor that starts at zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.inits._base import Init, fans, gain_of
from normbench.inits._residual import Factor, check_residual, residual
from normbench.parts.options import option


@dataclass(frozen=True)
class SkipInit(Init):
    """SkipInit: a learned factor at the end of each residual branch, so that blocks start as skips.

    y = skip(x) + f branch(x), with f of each block a learned number, alpha at first; weights as
    kaiming_normal, w ~ N(0, s^2), s = gain / sqrt(fan_in), gain: the activation's, sqrt(2) for
    relu; biases 0. Meant for `norm=none`.

    Args: alpha: what the factors start at; the paper has 0, and 1 / sqrt(blocks) does as well.
    Raises: InitError for models without residual branches.
    Source: De & Smith 2020, arXiv 2002.10444, section 4.
    """

    alpha: float = option(0.0, low=-1e30, high=1e30)

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` of a layer before the activation `act`."""
        weight.normal_(0, gain_of(act) / math.sqrt(fans(weight)[0]), generator=generator)

    def extend(self, model: nn.Module) -> None:
        """Put the factors at the ends of the branches."""
        for block, names in residual(model):
            block.get_submodule(names[-1]).add_module("factor", Factor(self.alpha))

    def check(self, model: nn.Module) -> None:
        """Raise InitError if there are no branches."""
        check_residual(self, "skipinit", model)
