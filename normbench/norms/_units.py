"""Units put norms in models: the only place that knows the order of linear layer, norm, activation.

Models are written against `UnitBuilder` and never name a norm.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from normbench.errors import NormError
from normbench.norms._base import Norm, OverTime
from normbench.parts import registry


class Dropout(nn.Module):
    """Zeroes each element with probability p in training and divides the others by 1 - p.

    The mask comes from `generator`, which the engine sets for each epoch, never from global state.
    Source: Srivastava et al. 2014, JMLR 15.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with a random mask applied in training, `x` itself in evaluation."""
        if not self.training:
            return x
        keep = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator)
        return x * keep.div_(1 - self.p)

    def extra_repr(self) -> str:
        """Show the probability."""
        return f"p={self.p}"


class Shifting(Dropout):
    """Shifts and scales each unit at random in training, anew at each forward.

    y = s * x + m;  x: (N, C, ...);  m ~ U(M - 0.1, M + 0.1), s ~ N(S, 0.1^2) for each value;
    M ~ U(-0.5, 0.5), S ~ U(1, 1.25) for each unit, common to the samples, a position being a unit
    of its own. `strength` multiplies 0.5, 0.25 and both 0.1.

    Source: Santurkar et al. 2018, arXiv 1805.11604, section 2.2 and appendix A, where it follows
    batch normalization.
    """

    def __init__(self, strength: float) -> None:
        super().__init__(strength)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` shifted and scaled in training, `x` itself in evaluation."""
        if not self.training:
            return x
        draw = self.generator
        shift = torch.empty_like(x[:1]).uniform_(-0.5, 0.5, generator=draw)
        scale = torch.empty_like(x[:1]).uniform_(0, 0.25, generator=draw)
        shift = shift + torch.empty_like(x).uniform_(-0.1, 0.1, generator=draw)
        scale = scale + torch.empty_like(x).normal_(0, 0.1, generator=draw)
        return x * (1 + self.p * scale) + self.p * shift

    def extra_repr(self) -> str:
        """Show the strength."""
        return f"strength={self.p}"


class Activation(Protocol):
    """An activation as units need it: a part of `activations/`, which is on a higher floor."""

    def build(self, channels: int, dims: int) -> nn.Module:
        """Build the module for features (N, channels, ...) with `dims` spatial axes."""


class Linear(nn.Linear):
    """A dense layer whose values are left to the initializer: torch's own draw would be wasted."""

    def reset_parameters(self) -> None:
        """Leave the values as they are."""


class Conv2d(nn.Conv2d):
    """A convolution whose values are left to the initializer."""

    def reset_parameters(self) -> None:
        """Leave the values as they are."""


class Unit(nn.Sequential):
    """A linear layer with its norm, activation and dropout, in the order of the placement.

    Children are `linear`, `norm`, `noise`, `act` and `drop`; absent ones are left out. After
    initialization `apply` lets the norm replace the linear child.
    """

    def __init__(self, children: list[tuple[str, nn.Module | None]]) -> None:
        super().__init__(OrderedDict((name, child) for name, child in children if child))


class UnitBuilder:
    """Builds the units of a model for one norm, activation, placement, bias and dropout.

    Args: activation: a part, its name, or `auto`, what the norm brings; placement: `pre`
        (linear, norm, activation), `post` (linear, activation, norm), `preact` (norm, activation,
        linear; residual nets) or `auto`, the norm's own; bias: `on`, `off`, or `auto`, which drops
        it where the norm comes next and removes any constant; dropout: probability, 0 <= p < 1.
        What is set on `noise` is the strength of `Shifting` after each norm of a unit.
    Raises: NormError if the norm has no such placement or is its own activation.
    """

    def __init__(
        self,
        norm: Norm,
        *,
        activation: str | Activation = "auto",
        placement: str = "auto",
        bias: str = "auto",
        dropout: float = 0.0,
    ) -> None:
        self.norm = norm
        self.placement = norm.placement if placement == "auto" else placement
        self.auto = activation == "auto"
        chosen = _activation(norm.brings if self.auto else activation)
        self.named = None if chosen == _activation(norm.brings) else chosen
        self.bias, self.dropout, self.noise = bias, dropout, 0.0
        kind = type(norm).__name__
        if self.placement not in norm.places:
            raise NormError(
                "",
                kind.lower(),
                f"cannot stand at placement={self.placement}",
                f"placement={norm.places[0]}",
            )
        if self.named and norm.own_activation:
            raise NormError(
                "",
                kind.lower(),
                f"is its own activation, activation={activation} has no place",
                "activation=auto",
            )

    def conv(self, cin: int, cout: int, k: int, *, act: bool = True, **how: Any) -> Unit:
        """Build a unit around a 2-D convolution; `act=False` for the last one of a branch."""
        return self._unit(lambda bias: Conv2d(cin, cout, k, bias=bias, **how), 2, act)

    def linear(self, fin: int, fout: int, *, act: bool = True) -> Unit:
        """Build a unit around a dense layer."""
        return self._unit(lambda bias: Linear(fin, fout, bias=bias), 0, act)

    def stem(self, cin: int, cout: int, k: int, **how: Any) -> Unit:
        """Build the first layer of a residual net: bare at `preact`, else as `conv`."""
        if self.placement != "preact":
            return self.conv(cin, cout, k, **how)
        return Unit([("linear", Conv2d(cin, cout, k, bias=self.bias != "off", **how))])

    def shortcut(self, cin: int, cout: int, stride: int) -> Unit:
        """Build the 1x1 convolution of a skip connection: normed, but bare at `preact`."""
        direct = self.placement != "preact"
        conv = Conv2d(cin, cout, 1, stride=stride, bias=self._biased(direct))
        return Unit([("linear", conv), ("norm", self.norm.layer(cout, 2) if direct else None)])

    def join(self, channels: int, dims: int) -> nn.Module:
        """Build what follows the addition of a residual block: the activation, if any."""
        return nn.Identity() if self.placement == "preact" else self._act(channels, dims)

    def finish(self, channels: int, dims: int) -> nn.Module:
        """Build what stands before the pooling: norm and activation at `preact`, else nothing."""
        if self.placement != "preact":
            return nn.Identity()
        return Unit([("norm", self.norm.layer(channels, dims)), ("act", self._act(channels, dims))])

    def bare(
        self, fin: int, fout: int, *, bias: bool = False, maps: int = 1, recurrent: bool = False
    ) -> Unit:
        """Build a dense layer of a recurrent cell, without norm or activation.

        Args: bias: asks for one, in one of the layers that are summed; the rule of the builder
            decides. maps: how many of their own it joins, such as the four gates of an lstm.
            recurrent: it maps the state to the state. The last two are for the initializer.
        """
        layer = Linear(fin, fout, bias=bias and self._biased(self.placement == "pre"))
        layer.maps, layer.recurrent = maps, recurrent  # type: ignore[assignment]
        return Unit([("linear", layer)])

    def plain(self, fin: int, fout: int, *, act: bool = False) -> Unit:
        """Build a dense layer that no norm follows, with activation and dropout if `act`."""
        layer = Linear(fin, fout, bias=self._biased(False))
        if not act:
            layer.followed_by = "identity"  # type: ignore[assignment]
        return Unit([("linear", layer), *(self._acts(fout, 0) if act else [])])

    def act(self, channels: int, dims: int, own: nn.Module) -> nn.Module:
        """Build an activation; `own` stands where neither the run nor the norm names one."""
        if self.auto and not self.norm.own_activation and self.norm.brings == "relu":
            return _marked(self.norm.activation(own, channels, dims))
        return self._act(channels, dims)

    def act_over_time(self, channels: int, steps: int, default: str) -> nn.Module:
        """Build the activation `(x, t) -> y` of a recurrent cell.

        `default` stands where neither the run nor the norm names one. An activation with running
        statistics has one layer per step, as `Norm.over_time`.
        """
        named = self.named
        if self.auto and not self.norm.own_activation and self.norm.brings == "relu":
            named = _activation(default)

        def layer() -> nn.Module:
            act = named.build(channels, 0) if named else None
            return self.norm.activation(act, channels, 0)

        first = layer()
        count = steps if next(first.buffers(), None) is not None else 1
        return _marked(OverTime([first, *(layer() for _ in range(count - 1))]))

    def head(self, fin: int, classes: int) -> nn.Linear:
        """Build the classifier: dense, with bias, never normed."""
        layer = Linear(fin, classes)
        layer.classifies = True  # type: ignore[assignment]
        layer.followed_by = "identity"  # type: ignore[assignment]
        return layer

    def _unit(self, layer: Callable[[bool], nn.Module], dims: int, act: bool) -> Unit:
        # At preact a unit that is not the last of its branch is followed by the next one's norm.
        direct = act if self.placement == "preact" else self.placement == "pre" or not act
        linear = layer(self._biased(direct))
        cin, cout = _widths(linear)
        channels = cin if self.placement == "preact" else cout
        norm = self._norm(channels, dims)
        active = act or self.placement == "preact"
        acts = self._acts(channels, dims) if active else []
        if self.placement == "preact":
            return Unit([*norm, *acts, ("linear", linear)])
        if self.placement == "post":
            return Unit([("linear", linear), *acts, *norm])
        return Unit([("linear", linear), *norm, *acts])

    def _norm(self, channels: int, dims: int) -> list[tuple[str, nn.Module | None]]:
        """Build the norm, and the noise behind it."""
        layer = self.norm.layer(channels, dims)
        return [("norm", layer), ("noise", Shifting(self.noise) if layer and self.noise else None)]

    def _biased(self, direct: bool) -> bool:
        """Decide whether a linear layer has a bias; `direct`: the norm comes next."""
        return (self.norm.bias or not direct) if self.bias == "auto" else self.bias == "on"

    def _acts(self, channels: int, dims: int) -> list[tuple[str, nn.Module | None]]:
        """Build the activation, and the dropout behind it."""
        drop = Dropout(self.dropout) if self.dropout else None
        return [("act", self._act(channels, dims)), ("drop", drop)]

    def _act(self, channels: int, dims: int) -> nn.Module:
        named = self.named.build(channels, dims) if self.named else None
        return _marked(self.norm.activation(named, channels, dims))


def apply(norm: Norm, model: nn.Module) -> None:
    """Let the norm replace the linear layer of each unit, after the initializer has filled them."""
    for module in model.modules():
        if isinstance(module, Unit) and hasattr(module, "linear"):
            module.linear = norm.linear(module.get_submodule("linear"))


def _activation(given: str | Activation) -> Activation:
    """Make an activation from its name, with its default options."""
    made: Activation = registry.find("activation", given)() if isinstance(given, str) else given
    return made


def _marked(activation: nn.Module) -> nn.Module:
    """Mark what stands in an activation's place: its type does not tell, it may be a norm."""
    activation.acts = True  # type: ignore[assignment]
    return activation


def _widths(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features
