"""Normal weights of one standard deviation, whatever the layer's size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from normbench.inits._base import Init
from normbench.parts.options import option


@dataclass(frozen=True)
class Normal(Init):
    """Normal weights of a fixed standard deviation, the same for every layer.

    w ~ N(0, std^2), b = 0. Signals change by std * sqrt(fan_in) per linear layer.

    Args: std: standard deviation.
    Source: Krizhevsky, Sutskever & Hinton 2012, section 5, with its 0.01 (its biases of 1 in some
    layers are left out).
    """

    std: float = option(0.01, above=0, high=1e30)

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight`; `act` plays no role."""
        weight.normal_(0, self.std, generator=generator)
