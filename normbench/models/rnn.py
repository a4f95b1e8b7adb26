"""A simple recurrent net that reads an image row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench.models._base import Model, Shape
from normbench.models._recurrent import by_rows, steps_of
from normbench.norms._units import Dropout, UnitBuilder
from normbench.parts.options import option


@dataclass(frozen=True)
class RNN(Model):
    """A tanh cell that reads an image from top to bottom, and a head on its last state.

    h_t = act(norm_t(W x_t + U h_{t-1} + b)), h_{-1} = 0; x_t: (N, C rows W), the rows of step t;
    h_t: (N, width); t = 0 .. H / rows - 1. At `post` act and norm change places. Without running
    statistics norm_t is one layer; with them there is one per step, sharing weight and bias, and
    images taller than the one it was built for use the last. Dropout stands before the head.

    Args: width: units of the state. rows: image rows read at each step, a divisor of H.
    Raises: ModelError if `rows` does not divide H.
    Source: Elman 1990, Cognitive Science 14; norm over time: Ba, Kiros & Hinton 2016, arXiv
    1607.06450, section 3.1, Cooijmans et al. 2016, arXiv 1603.09025.
    """

    recurrent: ClassVar[bool] = True
    activation: ClassVar[str] = "tanh"

    width: int = option(64, low=1, high=65536)
    rows: int = option(1, low=1)

    def build(self, units: UnitBuilder, shape: Shape, classes: int) -> nn.Module:
        """Build for images whose height is a multiple of `rows`."""
        return RowRNN(self, units, shape, classes)


class RowRNN(nn.Module):
    """The cell with its two maps, and the head."""

    def __init__(self, model: RNN, units: UnitBuilder, shape: Shape, classes: int) -> None:
        super().__init__()
        self.rows = model.rows
        steps = steps_of(shape, model.rows)
        width = model.width
        self.input = units.bare(shape[0] * model.rows * shape[2], width, bias=True)
        self.hidden = units.bare(width, width, recurrent=True)
        self.norm = units.norm.over_time(width, steps)
        self.act = units.act_over_time(width, steps, model.activation)
        self.post = units.placement == "post"
        self.drop = Dropout(units.dropout) if units.dropout else nn.Identity()
        self.head = units.head(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        x_ntd = by_rows(x, self.rows)
        steps = x_ntd.shape[1]
        inputs = self.input(x_ntd.flatten(0, 1)).unflatten(0, (-1, steps)).unbind(1)
        h = torch.zeros_like(inputs[0])
        for t, now in enumerate(inputs):
            h = self.step(now + self.hidden(h), t)
        y: Tensor = self.head(self.drop(h))
        return y

    def step(self, z: Tensor, t: int) -> Tensor:
        """Apply norm and activation of time `t` to the sum of the two maps."""
        if self.post:
            z = self.act(z, t)
        if self.norm is not None:
            z = self.norm(z, t)
        return z if self.post else self.act(z, t)
