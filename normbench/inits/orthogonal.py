"""Weights with orthogonal rows or columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from normbench.inits._base import Init, gain_of
from normbench.parts.options import option


@dataclass(frozen=True)
class Orthogonal(Init):
    """Random weights whose rows, or columns where these are fewer, are orthogonal and equally long.

    W W' = gain^2 I for out <= fan_in, else W' W = gain^2 I, W: (out, fan_in), a convolution's
    filters written as rows; W is uniform over all such matrices. b = 0.

    Args: gain: length of the rows or columns; null is the activation's: sqrt(2) for relu, 5/3 for
        tanh, 1 for identity.
    Source: Saxe, McClelland & Ganguli 2014, arXiv 1312.6120.
    """

    aliases: ClassVar[tuple[str, ...]] = ("ortho",)

    gain: float | None = option(None, above=0, high=1e30)

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` of a layer before the activation `act`."""
        gain = gain_of(act) if self.gain is None else self.gain
        torch.nn.init.orthogonal_(weight, gain, generator=generator)
