"""The base of initializers: which tensors are weights, their fans, and their own generators.

An initializer fills the weights of plain Linear and Conv layers, before norms replace any of
them. Each parameter has a generator derived from the seed and its path, so that a norm, a bias or
a layer more does not shift the draws of the others. Once the norm is there, an initializer may go
on from training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.errors import InitError, Mistake
from normbench.parts import registry
from normbench.parts.options import Options, option, written
from normbench.rows import Halt, Row
from normbench.runtime import rng

if TYPE_CHECKING:
    from normbench.norms._base import Norm

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
# What norms of features call their scale and shift, by the option that sets it.
GAINS = {"gamma": ("weight", "scale"), "beta": ("bias", "shift")}


@dataclass(frozen=True)
class InitContext:
    """Training images to start from, and how the run trains.

    Args: gather: returns the training images (B, C, H, W) at indices (B,). count: of training
        images. first: some of them, as many as a batch or more. norm: whose hooks go with each
        step. cast: makes the autocast context of the run. seed: of the run. log_every: steps
        between two rows. halts: asked after each step whether to halt. kept: what a `Halt` of an
        earlier attempt gave, to go on from; the model is as it was then.
    """

    gather: Callable[[Tensor], Tensor]
    count: int
    first: Tensor
    norm: Norm
    cast: Callable[[], AbstractContextManager[Any]]
    seed: int
    log_every: int
    halts: Callable[[int], bool] = lambda step: False
    kept: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Init(Options):
    """The base of initializers: its options, and how it fills one weight and one bias.

    Args: bias: what all biases of linear layers start at; null is what the initializer does. gamma,
    beta: what the scales and shifts of norms of features start at; null is what the norm does.
    groups: `own` fills each group of a grouped convolution, and each gate of a recurrent cell, as a
    layer of its own, `torch` all of them as one layer of out units, as `torch.nn.init`.
    """

    error: ClassVar[type[InitError]] = InitError
    random: ClassVar[bool] = True  # another seed and another path give other weights
    settled: ClassVar[bool] = False  # a norm that starts from data leaves its weights as they are

    bias: float | None = option(None, low=-1e30, high=1e30)
    gamma: float | None = option(None, low=-1e30, high=1e30)
    beta: float | None = option(None, low=-1e30, high=1e30)
    groups: str = option("own", choices=("own", "torch"))

    @property
    def at_once(self) -> int:
        """The images that `calibrate` puts through the model at once, 0 for as many as the run."""
        return 0

    @property
    def drawing(self) -> Init:
        """The initializer that fills the weights: itself, unless it starts from another one."""
        return self

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` (out, in, ...) in place; `act` is the name of the run's activation."""
        raise NotImplementedError

    def fill_recurrent(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill the `weight` of a map from state to state as any other, unless overridden."""
        self.fill(weight, act, generator)

    def fill_bias(self, bias: Tensor, weight: Tensor, generator: torch.Generator) -> None:
        """Fill the `bias` (out,) of the layer with `weight` in place: zeros unless overridden."""
        bias.zero_()

    def groups_of(self, layer: nn.Module) -> int:
        """Return how many layers of their own a layer joins: groups of a convolution, gates."""
        own: int = getattr(layer, "groups", 1) * getattr(layer, "maps", 1)
        return own if self.groups == "own" else 1

    def factors(self, model: nn.Module) -> Mapping[nn.Module, float]:
        """Return by what the weights of linear layers are multiplied once they are filled."""
        return {}

    def extend(self, model: nn.Module) -> None:
        """Add the parameters that it needs to a model whose linear layers are not yet filled."""

    def finish(self, model: nn.Module) -> None:
        """Set what it knows of a model with its norm, after all layers have been filled."""

    def check(self, model: nn.Module) -> None:
        """Raise InitError if it cannot start this model, which has its norm but maybe no values."""

    def calibrate(self, model: nn.Module, context: InitContext) -> Iterator[Row | Halt]:
        """Set parameters from training images, and yield rows of the kind `pretrain`, if any.

        Comes after the norm's own start from data. The model is in training mode without dropout,
        its statistics are those of the images that go forward together, and its buffers are put
        back afterwards. A number of a row that is not finite ends the run.
        """
        return iter(())

    def warnings(self, model: nn.Module) -> list[Mistake]:
        """Return the settings that nothing in this model, with its norm, is set by."""
        mistakes = []
        for key, (name, word) in GAINS.items():
            value = getattr(self, key)
            if value is not None and next(_gains(model, name), None) is None:
                why = f"no norm here has a {word}"
                mistakes.append(Mistake(f"init.{key}={written(value)}", why, f"init.{key}=null"))
        return mistakes


@torch.no_grad()
def initialize(model: nn.Module, init: Init, act: str, seed: int) -> None:
    """Fill every weight and bias of the linear layers of `model`; all other parameters stay.

    Each group of a grouped convolution is a layer of its own, which sees only its own inputs, and
    so is the map of each gate of a recurrent cell. The gain of a layer is that of the activation
    that follows it: `act`, or what the layer declares as `followed_by`, `identity` for the
    classifier.
    """
    drawing, factors = init.drawing, init.factors(model)
    for path, layer in model.named_modules():
        if not isinstance(layer, LAYERS):
            continue
        generator = rng.generator(seed, "init", f"{path}.weight")
        fill = drawing.fill_recurrent if getattr(layer, "recurrent", False) else drawing.fill
        for group in layer.weight.chunk(init.groups_of(layer)):
            fill(group, getattr(layer, "followed_by", act), generator)
        if layer in factors:
            layer.weight.mul_(factors[layer])
        if layer.bias is not None and init.bias is not None:
            layer.bias.fill_(init.bias)
        elif layer.bias is not None:
            generator = rng.generator(seed, "init", f"{path}.bias")
            drawing.fill_bias(layer.bias, layer.weight, generator)


@torch.no_grad()
def set_gains(model: nn.Module, init: Init) -> None:
    """Set the scales and shifts of norms of features to `init.gamma` and `init.beta`, if given.

    They are what is called `weight` and `bias` in a module that is no linear layer, also none of a
    norm that has taken its place: no parameter of the module has two axes.
    """
    for key, (name, _) in GAINS.items():
        value = getattr(init, key)
        for parameter in _gains(model, name) if value is not None else ():
            parameter.fill_(value)


def linear_layers(model: nn.Module) -> Iterator[tuple[nn.Module, Tensor | None]]:
    """Yield the linear layers of a model with its norm, and the scale of each.

    That is the parameter of which a multiple gives the same multiple of the output, but for the
    bias: the weight, or what a norm that has taken the layer's place declares as `scaled_by`; None
    where the output does not change with the length of weights.
    """
    for layer in model.modules():
        if isinstance(layer, LAYERS) or hasattr(layer, "scaled_by"):
            name = getattr(layer, "scaled_by", "weight")
            yield layer, getattr(layer, name) if name else None


def fans(weight: Tensor) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight (out, in, ...): units times receptive field."""
    field = math.prod(weight.shape[2:])
    return weight.shape[1] * field, weight.shape[0] * field


def gain_of(act: str) -> float:
    """Return the factor on the standard deviation that keeps variance through an activation."""
    return float(registry.facts("activation", act).constants["gain"])


def _gains(model: nn.Module, name: str) -> Iterator[nn.Parameter]:
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        if name in own and all(parameter.dim() < 2 for parameter in own.values()):
            yield own[name]
