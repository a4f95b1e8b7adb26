"""Weights pre-trained layer by layer as auto-encoders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from normbench.inits._base import LAYERS, Init, InitContext
from normbench.inits._greedy import Stage, pretrain, units_of
from normbench.norms._base import OverTime
from normbench.parts import registry
from normbench.parts.options import nearest, option
from normbench.rows import Halt, Row

MORE = {"calibrate", "factors"}  # what an initializer does that is more than to draw weights


@dataclass(frozen=True)
class AutoEncoder(Init):
    """Greedy layer-wise pre-training: each layer learns to give back its input from its output.

    Layer by layer, from the first, the earlier ones fixed: minimize E[(D(f(c(x))) - x)^2] over
    the values of x, the input of the layer for images without labels; f: the layer with its norm
    and activation, without dropout; c sets each value to 0 with probability `noise`;
    D(h) = W' h + d with the weight W of the layer and a bias of its own, transposed convolution for
    convolution, dropped afterwards. Then the classifier is trained as usual. The weights are drawn
    first as `base` draws them; buffers of norms are put back.

    The rows `pretrain` have the mean loss of each layer, `pretrain/<layer>/loss`, over steps and
    examples of this stage; `pretrain/steps` and `pretrain/examples` say in the end what it cost.
    Batches, steps and corruption do not depend on batch, order or optimizer of the run.

    Args: base: the initializer that draws the weights. steps: of each layer. batch: examples of a
        step. lr: learning rate of Adam, with its usual moments. noise: share of corrupted inputs.
        tied: false gives D a weight of its own, drawn by `base`.
    Raises: InitError for nets that read an image in time steps, whose maps add up; for tied with a
        norm of weights, whose weight is computed; for a base that does more than draw weights.
    Source: Bengio, Lamblin, Popovici & Larochelle 2007, NIPS 19; Hinton & Salakhutdinov 2006,
        Science 313; with noise Vincent et al. 2010, JMLR 11. There without norm, by plain gradient
        steps, and with a cross-entropy for inputs in 0 .. 1.
    """

    base: str = "kaiming_normal"
    steps: int = option(300, low=1, high=10_000_000)
    batch: int = option(64, low=2, high=1_000_000)
    lr: float = option(1e-3, above=0, high=1e30)
    noise: float = option(0.0, low=0, below=1)
    tied: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        draws = [
            name
            for name in registry.names("init")
            if not MORE & registry.facts("init", name).methods
        ]
        if self.base not in draws:
            why = f"is none of {', '.join(draws)}"
            raise self.error("base", self.base, why, nearest(self.base, draws))

    @property
    def at_once(self) -> int:
        """The images of a step."""
        return self.batch

    @property
    def drawing(self) -> Init:
        """The initializer that draws the weights."""
        drawing: Init = registry.find("init", self.base)(groups=self.groups)
        return drawing

    def check(self, model: nn.Module) -> None:
        """Raise InitError if there is nothing to pre-train, or no weight that could be tied."""
        if any(isinstance(module, OverTime) for module in model.modules()):
            why = "a map of a recurrent cell is part of a sum, there is no output to decode"
            raise self.error("", "autoencoder", why, f"init={self.base}")
        linear = [unit.get_submodule("linear") for unit in units_of(model).values()]
        if not linear:
            why = "this model has no layer before its classifier"
            raise self.error("", "autoencoder", why, f"init={self.base}")
        computed = {type(layer).__name__ for layer in linear if not isinstance(layer, LAYERS)}
        if self.tied and computed:
            names = ", ".join(sorted(computed))
            why = f"the weight of {names} is computed, a decoder cannot share it"
            raise self.error("tied", "true", why, "false")

    def calibrate(self, model: nn.Module, context: InitContext) -> Iterator[Row | Halt]:
        """Pre-train each layer, and yield a row every `log_every` steps and at its end."""
        stage = Stage(self.steps, self.batch, self.lr, self.noise, self.tied)
        return pretrain(model, context, stage, self.drawing)
