"""Orthogonal maps from state to state: the default of recurrent nets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from normbench.inits._base import Init, fans


@dataclass(frozen=True)
class Recurrent(Init):
    """Orthogonal recurrent weights, and Xavier's uniform ones everywhere else.

    U' U = I for the maps U: (width, width) from state to state, of an lstm that of each gate, so
    that a state keeps its length however often it is mapped; W ~ U(-a, a) for all others,
    a = sqrt(6 / (fan_in + fan_out)); b = 0. The gain is 1, also before tanh: with its 5/3 a state
    saturates within a few steps.

    Source: Saxe, McClelland & Ganguli 2014, arXiv 1312.6120; Glorot & Bengio 2010, AISTATS,
        eq. 16; both as in Keras's recurrent layers, which take the gates of an lstm as one matrix.
    """

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight`; `act` plays no role."""
        bound = math.sqrt(6 / sum(fans(weight)))
        weight.uniform_(-bound, bound, generator=generator)

    def fill_recurrent(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` (width, width) with orthonormal rows and columns."""
        torch.nn.init.orthogonal_(weight, generator=generator)
