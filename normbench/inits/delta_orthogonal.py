"""Convolutions that start as an orthogonal map of each position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from normbench.inits._base import Init, gain_of
from normbench.parts.options import option


@dataclass(frozen=True)
class DeltaOrthogonal(Init):
    """Convolutions with a random orthogonal matrix at their central tap and zeros elsewhere.

    w[:, :, c] = H, w = 0 at all other taps, c the middle of the kernel (the lower one where it is
    even); H: (out, in), H' H = gain^2 I for in <= out, so that each position of a map keeps its
    length; b = 0. For in > out, where the paper has no such start, H H' = gain^2 I. Dense layers
    are orthogonal.

    Args: gain: length of the columns, or rows where these are fewer; null is the activation's:
        sqrt(2) for relu, 5/3 for tanh, 1 for identity.
    Source: Xiao, Bahri, Sohl-Dickstein, Schoenholz & Pennington 2018, arXiv 1806.05393.
    """

    gain: float | None = option(None, above=0, high=1e30)

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` of a layer before the activation `act`."""
        gain = gain_of(act) if self.gain is None else self.gain
        matrix = weight.new_empty(weight.shape[:2])
        torch.nn.init.orthogonal_(matrix, gain, generator=generator)
        centre = weight.zero_()
        for taps in weight.shape[2:]:
            centre = centre.select(2, (taps - 1) // 2)
        centre.copy_(matrix)
