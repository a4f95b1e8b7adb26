"""The initialization that torch's layers come with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from normbench.inits._base import Init, fans


@dataclass(frozen=True)
class Default(Init):
    """torch's own default: uniform weights and biases within 1/sqrt(fan_in).

    w, b ~ U(-1/sqrt(fan_in), 1/sqrt(fan_in));  w: (out, in, ...), b: (out,). The variance is
    1 / (3 fan_in), a sixth of what relu needs, so signals shrink with depth.

    Source: `reset_parameters` of torch.nn.Linear and Conv, kept from Torch7, where it followed
    LeCun et al. 1998, Efficient BackProp, but with a third of its variance.
    """

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight`; `act` plays no role."""
        bound = 1 / math.sqrt(fans(weight)[0])
        weight.uniform_(-bound, bound, generator=generator)

    def fill_bias(self, bias: Tensor, weight: Tensor, generator: torch.Generator) -> None:
        """Fill `bias` from the same interval as `weight`."""
        bound = 1 / math.sqrt(fans(weight)[0])
        bias.uniform_(-bound, bound, generator=generator)
