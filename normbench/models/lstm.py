"""A long short-term memory that reads an image row by row."""

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
class LSTM(Model):
    """A long short-term memory that reads an image from top to bottom, and a head.

    i, f, g, o = norm_t(W x_t + U h_{t-1} + b); h_t = sigmoid(o) act(norm'_t(c_t));
    c_t = sigmoid(f + forget_bias) c_{t-1} + sigmoid(i) act(g); h, c start at 0.
    x_t: (N, C rows W), the rows of step t; c_t, h_t: (N, width); the four gates: (N, 4 width),
    normalized together; act is tanh unless named. Without running statistics a norm is one layer;
    with them there is one per step, sharing weight and bias, and images taller than the one it was
    built for use the last. Dropout stands before the head.

    Args: width: units of the state. rows: image rows read at each step, a divisor of H.
        forget_bias: with 1 a memory keeps sigmoid(1) = 0.73 of itself at each step at first, with 0
        half. It stands behind the norm, so that it is there whatever the norm.
    Raises: ModelError if `rows` does not divide H, or for any placement but `pre`.
    Source: Hochreiter & Schmidhuber 1997, Neural Computation 9, with the forget gate of Gers et
    al. 2000; norms: Ba, Kiros & Hinton 2016, arXiv 1607.06450, and Cooijmans et al. 2016, arXiv
    1603.09025, who normalize the two maps apart; forget_bias: Jozefowicz, Zaremba & Sutskever 2015,
    ICML.
    """

    recurrent: ClassVar[bool] = True
    activation: ClassVar[str] = "tanh"

    width: int = option(64, low=1, high=65536)
    rows: int = option(1, low=1)
    forget_bias: float = option(1.0, low=-100, high=100)

    def build(self, units: UnitBuilder, shape: Shape, classes: int) -> nn.Module:
        """Build for images whose height is a multiple of `rows`."""
        if units.placement != "pre":
            why = f"normalizes its gates before their sigmoids, not at placement={units.placement}"
            raise self.error("", "lstm", why, "placement=pre")
        return RowLSTM(self, units, shape, classes)


class RowLSTM(nn.Module):
    """The cell with its two maps, and the head."""

    def __init__(self, model: LSTM, units: UnitBuilder, shape: Shape, classes: int) -> None:
        super().__init__()
        self.rows, self.forget_bias = model.rows, model.forget_bias
        steps = steps_of(shape, model.rows)
        width = model.width
        self.input = units.bare(shape[0] * model.rows * shape[2], 4 * width, bias=True, maps=4)
        self.hidden = units.bare(width, 4 * width, maps=4, recurrent=True)
        self.norm = units.norm.over_time(4 * width, steps)
        self.candidate = units.act_over_time(width, steps, model.activation)
        self.cell_norm = units.norm.over_time(width, steps)
        self.output = units.act_over_time(width, steps, model.activation)
        self.drop = Dropout(units.dropout) if units.dropout else nn.Identity()
        self.head = units.head(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        x_ntd = by_rows(x, self.rows)
        steps = x_ntd.shape[1]
        inputs = self.input(x_ntd.flatten(0, 1)).unflatten(0, (-1, steps)).unbind(1)
        h = c = torch.zeros_like(inputs[0].chunk(4, 1)[0])
        for t, now in enumerate(inputs):
            h, c = self.step(now + self.hidden(h), c, t)
        y: Tensor = self.head(self.drop(h))
        return y

    def step(self, z: Tensor, c: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Return the state and the memory of time `t` from the gates' sums and the old memory."""
        if self.norm is not None:
            z = self.norm(z, t)
        i, f, g, o = z.chunk(4, 1)
        c = (f + self.forget_bias).sigmoid() * c + i.sigmoid() * self.candidate(g, t)
        y = c if self.cell_norm is None else self.cell_norm(c, t)
        return o.sigmoid() * self.output(y, t), c
