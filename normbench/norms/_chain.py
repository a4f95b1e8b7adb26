"""Several norms as one: `ws+gn` standardizes the weights and normalizes what they give."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from normbench.errors import Mistake, NormError
from normbench.norms._base import Norm
from normbench.parts import registry


@dataclass(frozen=True)
class Chain(Norm):
    """Norms applied in order: their linear hooks one after the other, their layers in a row.

    Its class facts are those of the whole; see `registry.facts`.

    Args: names: of the members; members: their options and hooks.
    Raises: NormError if two members replace the linear layer, or two bring an activation.
    """

    names: tuple[str, ...]
    members: tuple[Norm, ...]

    def __post_init__(self) -> None:
        for key, value in registry.facts("norm", "+".join(self.names)).constants.items():
            object.__setattr__(self, key, value)
        self._refuse_two(_replaces_linear, "replace the linear layer")
        self._refuse_two(_brings_activation, "bring an activation")

    def linear(self, layer: nn.Module) -> nn.Module:
        """Let the members replace the layer, of which at most one does."""
        for name, member in self._named():
            with naming(name):
                layer = member.linear(layer)
        return layer

    def layer(self, channels: int, dims: int) -> nn.Module | None:
        """Return the members' layers in a row, a single one as it is, None if there are none."""
        return self._in_a_row(lambda member: member.layer(channels, dims), nn.Sequential)

    def activation(self, act: nn.Module | None, channels: int, dims: int) -> nn.Module:
        """Return the activation of the member that brings one."""
        for name, member in self._named():
            if _brings_activation(member):
                with naming(name):
                    return member.activation(act, channels, dims)
        return super().activation(act, channels, dims)

    def over_time(self, channels: int, steps: int) -> nn.Module | None:
        """Return the members' modules over time in a row."""
        return self._in_a_row(lambda member: member.over_time(channels, steps), InTurn)

    def resolve(self, accumulate: int) -> Norm:
        """Return the chain of the members for a run."""
        members = {}
        for name, member in self._named():
            with naming(name):
                members[name] = member.resolve(accumulate)
        return chain(members)

    def has_modes(self) -> bool:
        """Tell whether a member computes different things in training and evaluation."""
        return any(member.has_modes() for member in self.members)

    def norms_features(self) -> bool:
        """Tell whether a member has a layer or an activation of its own."""
        return any(member.norms_features() for member in self.members)

    def warnings(self, model: nn.Module, beside: Sequence[Norm] = ()) -> list[Mistake]:
        """Return what the members warn of, each beside the others."""
        return [
            warning
            for member in self.members
            for warning in member.warnings(model, [m for m in self.members if m is not member])
        ]

    def _named(self) -> Iterator[tuple[str, Norm]]:
        yield from zip(self.names, self.members, strict=True)

    def _in_a_row(
        self, make: Callable[[Norm], nn.Module | None], join: Callable[[Any], nn.Module]
    ) -> nn.Module | None:
        made: OrderedDict[str, nn.Module] = OrderedDict()
        for name, member in self._named():
            with naming(name):
                layer = make(member)
            if layer is not None:
                made[name] = layer
        return join(made) if len(made) > 1 else next(iter(made.values()), None)

    def _refuse_two(self, does: Callable[[Norm], bool], what: str) -> None:
        found = [name for name, member in self._named() if does(member)]
        if len(found) > 1:
            fix = "+".join(name for name in self.names if name not in found[1:])
            raise NormError("", "+".join(self.names), f"{' and '.join(found)} both {what}", fix)


class ActingChain(Chain):
    """A chain with a member that itself acts on gradients or after a step."""

    def after_backward(self, model: nn.Module) -> None:
        """Let the members act on the gradients, then the modules."""
        for member in self.members:
            if type(member).after_backward is not Norm.after_backward:
                member.after_backward(model)
        super().after_backward(model)

    def after_step(self, model: nn.Module) -> None:
        """Let the members act after the optimizer's step, then the modules."""
        for member in self.members:
            if type(member).after_step is not Norm.after_step:
                member.after_step(model)
        super().after_step(model)


class InTurn(nn.ModuleDict):
    """Applies modules (x, t) -> y one after the other."""

    def forward(self, x: Tensor, t: int) -> Tensor:
        """Normalize `x` of shape (N, C) at time `t` >= 0."""
        for layer in self.values():
            x = layer(x, t)
        return x


def chain(members: dict[str, Norm]) -> Chain:
    """Join norms in order."""
    acts = any(
        type(member).after_backward is not Norm.after_backward
        or type(member).after_step is not Norm.after_step
        for member in members.values()
    )
    return (ActingChain if acts else Chain)(tuple(members), tuple(members.values()))


@contextmanager
def naming(member: str) -> Iterator[None]:
    """Name the member in the errors that its options cause: `norm.eps` becomes `norm.gn.eps`."""
    try:
        yield
    except NormError as error:
        error.mistakes = [
            replace(
                mistake,
                subject=_inside(member, mistake.subject),
                fix=_inside(member, mistake.fix),
            )
            for mistake in error.mistakes
        ]
        raise


def _inside(member: str, text: str) -> str:
    return f"norm.{member}.{text[5:]}" if text.startswith("norm.") else text


def _replaces_linear(norm: Norm) -> bool:
    layer = nn.Linear(4, 4, device="meta")
    try:
        return norm.linear(layer) is not layer
    except NormError:  # only a run settles its options, such as a share of its training forwards
        return True


def _brings_activation(norm: Norm) -> bool:
    return type(norm).activation is not Norm.activation
