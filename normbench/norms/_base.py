"""The base of norms: the class `Norm` with its hooks, and `Units`, which puts norms in models.

`Units` is the only place that knows the order of linear layer, norm, activation and dropout.
Models are written against it and never name a norm.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from normbench.errors import Mistake, NormError
from normbench.norms._sums import at_least_float32, channel_sums, per_position
from normbench.parts import registry
from normbench.parts.options import Options

PLACES = ("pre", "post", "preact")
Share = TypeVar("Share")
BATCH_AXES = {0: (2, "(N, C)"), 1: (3, "(N, C, L)"), 2: (4, "(N, C, H, W)")}


@dataclass(frozen=True)
class Norm(Options):
    """The options of a normalization method and the hooks by which it enters a model.

    A norm holds no tensors: the modules that its hooks return do. Each hook has a neutral default.
    The facts below tell what the code around a norm must know of it.
    """

    error: ClassVar[type[NormError]] = NormError
    aliases: ClassVar[tuple[str, ...]] = ()  # other names, only for the answer to an unknown name
    bias: ClassVar[bool] = True  # a bias directly before the norm is of use
    placement: ClassVar[str] = "pre"  # where it stands unless the user says otherwise
    places: ClassVar[tuple[str, ...]] = ("pre", "post", "preact")
    brings: ClassVar[str] = "relu"  # the activation that stands where the user names none
    own_activation: ClassVar[bool] = False  # it is its own activation: a named one is refused
    uses_batch: ClassVar[bool] = False  # in training, a sample's output depends on its batch
    running: ClassVar[bool] = False  # keeps running statistics for evaluation
    sized_by: ClassVar[str] = "norm_batch"  # option or fact: examples behind a batch statistic
    parameters: ClassVar[str] = "none"  # learned numbers for C channels, for `list norms`
    state: ClassVar[str] = "none"  # buffers in the state dictionary, at the default options
    memory_format: ClassVar[str] = "channels_last"  # the faster format of feature maps on a CPU

    def linear(self, layer: nn.Module) -> nn.Module:
        """Return the module that takes the place of a Linear or Conv2d with its first weights."""
        return layer

    def layer(self, channels: int, dims: int) -> nn.Module | None:
        """Return the module features -> features for `dims` spatial axes, None if there is none."""
        return None

    def activation(self, act: nn.Module | None, channels: int, dims: int) -> nn.Module:
        """Return what stands in the activation's place; `act` is None if the run names none."""
        return act or nn.ReLU()

    def over_time(self, channels: int, steps: int) -> nn.Module | None:
        """Return a module `(x, t) -> y` for a recurrent cell, None if the norm has no layer.

        Without running statistics one layer serves all time steps. With them there is one per
        step, sharing weight and bias; longer sequences use the last.
        """
        count = steps if self.has_modes() else 1
        layers = [self.layer(channels, 0) for _ in range(count)]
        return None if layers[0] is None else OverTime([layer for layer in layers if layer])

    def resolve(self, accumulate: int) -> Norm:
        """Return the norm for a run of `accumulate` micro-batches per optimizer step.

        Raises: NormError if it cannot be used there.
        """
        return self

    def after_backward(self, model: nn.Module) -> None:
        """Act on the gradients of a step; passes on to the modules that have this hook."""
        _pass_on(model, "after_backward")

    def after_step(self, model: nn.Module) -> None:
        """Act after the optimizer's step; passes on to the modules that have this hook."""
        _pass_on(model, "after_step")

    def has_modes(self) -> bool:
        """Tell whether training and evaluation compute different things."""
        return self.running

    def norms_features(self) -> bool:
        """Tell whether it has a layer or an activation of its own."""
        kind = type(self)
        return kind.layer is not Norm.layer or kind.activation is not Norm.activation

    def warnings(self, model: nn.Module, beside: Sequence[Norm] = ()) -> list[Mistake]:
        """Return what works in this model but may not be meant.

        Args: model: built with this norm, on any device; beside: what it is chained with.
        """
        return []


class Running(nn.Module):
    """A layer with running statistics for evaluation, in buffers called `running_*`.

    While it is `plain`, a training forward takes nothing but the moments of the whole batch, for
    its output as for the running statistics, which become those of this batch.
    """

    plain = False

    def share(self, momentum: Share) -> Share | float:
        """Return the weight of new values in the running statistics: `momentum`, or 1 if plain."""
        return 1.0 if self.plain else momentum


class OverTime(nn.Module):
    """Applies the t-th layer at time t, the last one at all later times."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.last = 0  # the time of the last call
        self.layers = nn.ModuleList(layers)
        for layer in layers[1:]:  # one weight and bias for all steps
            for name, parameter in layers[0].named_parameters():
                owner, _, leaf = name.rpartition(".")
                setattr(layer.get_submodule(owner), leaf, parameter)

    def forward(self, x: Tensor, t: int) -> Tensor:
        """Normalize `x` of shape (N, C) at time `t` >= 0."""
        self.last = t
        y: Tensor = self.layers[min(t, len(self.layers) - 1)](x)
        return y


class TLU(nn.Module):
    """Thresholded linear unit: y = max(x, tau), one learned tau per channel, starting at 0.

    Where x = tau the gradient is split evenly between the two. x: (N, C, ...); tau: (C,).
    Source: Singh & Krishnan 2020, arXiv 1911.09737, section 3.
    """

    steepest = 1.0  # largest |derivative|, declared by activations that work on single values

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.tau = nn.Parameter(torch.zeros(channels))
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """Return the elementwise maximum of `x` and its channel's threshold."""
        y: Tensor = _Maximum.apply(x, self.tau.to(x.dtype))
        return y


class _Maximum(torch.autograd.Function):
    """max(x, tau) with tau per channel; torch's own gradient takes ten times as long."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, tau: Tensor) -> Tensor:
        return torch.maximum(x, per_position(tau, x.dim() - 2))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, tau = ctx.saved_tensors
        side = (
            x - per_position(tau, x.dim() - 2)
        ).sign_()  # 1 where x wins, 0 where both are equal
        signed, whole = channel_sums(at_least_float32(grad), at_least_float32(side))
        return side.mul_(grad).add_(grad).mul_(0.5), (whole - signed).sum(0).to(tau.dtype) / 2


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

    Children are `linear`, `norm`, `act` and `drop`; absent ones are left out. After
    initialization `apply` lets the norm replace the linear child.
    """

    def __init__(self, children: list[tuple[str, nn.Module | None]]) -> None:
        super().__init__(OrderedDict((name, child) for name, child in children if child))


class Units:
    """Builds the units of a model for one norm, activation, placement, bias and dropout.

    Args: activation: a part, its name, or `auto`, what the norm brings; placement: `pre`
        (linear, norm, activation), `post` (linear, activation, norm), `preact` (norm, activation,
        linear; residual nets) or `auto`, the norm's own; bias: `on`, `off`, or `auto`, which drops
        it where the norm comes next and removes any constant; dropout: probability, 0 <= p < 1.
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
        self.bias, self.dropout = bias, dropout
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

    def bare(self, fin: int, fout: int, *, bias: bool = False) -> Unit:
        """Build a dense layer of a recurrent cell, without norm or activation.

        `bias` asks for one, in one of the layers that are summed; the rule of `Units` decides.
        """
        biased = bias and self._biased(self.placement == "pre")
        return Unit([("linear", Linear(fin, fout, bias=biased))])

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
        return layer

    def _unit(self, layer: Callable[[bool], nn.Module], dims: int, act: bool) -> Unit:
        # At preact a unit that is not the last of its branch is followed by the next one's norm.
        direct = act if self.placement == "preact" else self.placement == "pre" or not act
        linear = layer(self._biased(direct))
        cin, cout = _widths(linear)
        channels = cin if self.placement == "preact" else cout
        norm = ("norm", self.norm.layer(channels, dims))
        active = act or self.placement == "preact"
        acts: list[tuple[str, nn.Module | None]] = []
        if active:
            acts = [("act", self._act(channels, dims))]
            acts += [("drop", Dropout(self.dropout))] if self.dropout else []
        if self.placement == "preact":
            return Unit([norm, *acts, ("linear", linear)])
        if self.placement == "post":
            return Unit([("linear", linear), *acts, norm])
        return Unit([("linear", linear), norm, *acts])

    def _biased(self, direct: bool) -> bool:
        """Decide whether a linear layer has a bias; `direct`: the norm comes next."""
        return (self.norm.bias or not direct) if self.bias == "auto" else self.bias == "on"

    def _act(self, channels: int, dims: int) -> nn.Module:
        named = self.named.build(channels, dims) if self.named else None
        return _marked(self.norm.activation(named, channels, dims))


def _activation(given: str | Activation) -> Activation:
    """Make an activation from its name, with its default options."""
    made: Activation = registry.find("activation", given)() if isinstance(given, str) else given
    return made


def apply(norm: Norm, model: nn.Module) -> None:
    """Let the norm replace the linear layer of each unit, after the initializer has filled them."""
    for module in model.modules():
        if isinstance(module, Unit) and hasattr(module, "linear"):
            module.linear = norm.linear(module.get_submodule("linear"))


def check_rank(layer: nn.Module, x: Tensor, dims: int) -> None:
    """Raise NormError unless `x` has `dims` spatial axes behind (N, C)."""
    axes, form = BATCH_AXES.get(dims, (0, "(N, C), (N, C, L) or (N, C, H, W)"))
    if x.dim() != axes:
        name = type(layer).__name__
        raise NormError("", name, f"got shape {tuple(x.shape)}, needs {form}", f"shape={form}")


def check_count(layer: nn.Module, shape: Sequence[int], count: int, over: str) -> None:
    """Raise NormError if a variance would be taken over fewer than two values."""
    if count < 2:
        name = type(layer).__name__
        batched = over.startswith("per channel") and "sample" not in over
        raise NormError(
            "",
            name,
            f"input {tuple(shape)} leaves {count} value{'s' * (count != 1)} {over} "
            "to take statistics of, at least 2 are needed",
            "a larger batch" if batched else "another norm, or a larger layer",
        )


def divisors(number: int) -> list[int]:
    """List the divisors of `number` in ascending order."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def groups_of(groups: int | None, channels: int) -> int:
    """Resolve `groups`: None is the divisor nearest to 8 that leaves two channels a group.

    Of two that are equally near the larger is taken. A single channel is one group.
    Raises: NormError if `groups` does not divide `channels`.
    """
    if groups is None:
        usable = [count for count in divisors(channels) if channels // count >= 2] or [1]
        return min(usable, key=lambda count: (abs(count - 8), -count))
    if channels % groups:
        works = divisors(channels)
        raise NormError(
            "groups",
            groups,
            f"{channels} channels do not divide into {groups} groups "
            f"(divisors: {', '.join(map(str, works))})",
            min(works, key=lambda count: abs(count - groups)),
        )
    return groups


def _marked(activation: nn.Module) -> nn.Module:
    """Mark what stands in an activation's place: its type does not tell, it may be a norm."""
    activation.acts = True  # type: ignore[assignment]
    return activation


def _widths(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


def _pass_on(model: nn.Module, hook: str) -> None:
    for module in model.modules():
        if hasattr(module, hook):
            getattr(module, hook)()
