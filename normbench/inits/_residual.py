"""Residual branches of a model, and a learned factor at their ends."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from normbench.inits._base import LAYERS, Init


class Factor(nn.Module):
    """Multiplies all values by one learned number, `start` at first."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((1,), start))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (N, ...) times the number."""
        return x * self.factor


def residual(model: nn.Module) -> list[tuple[nn.Module, tuple[str, ...]]]:
    """List the residual blocks, each with the names of the modules of its branch."""
    named = [(block, getattr(block, "branch", ())) for block in model.modules()]
    return [(block, names) for block, names in named if names]


def branches_of(model: nn.Module) -> list[list[nn.Module]]:
    """List the linear layers of each residual branch, in order."""
    branches: list[list[nn.Module]] = []
    for block, names in residual(model):
        inside = (layer for name in names for layer in block.get_submodule(name).modules())
        branches.append([layer for layer in inside if isinstance(layer, LAYERS)])
    return [branch for branch in branches if branch]


def check_residual(init: Init, name: str, model: nn.Module) -> None:
    """Raise InitError if a model has no residual branches."""
    if not residual(model):
        why = "this model tells of no residual branches"
        raise init.error("", name, why, "model=resnet20")


def put(module: nn.Module, children: Iterable[tuple[str, nn.Module]]) -> None:
    """Let a module have these children, in this order."""
    for name, child in list(children):
        module._modules.pop(name, None)  # which keeps the order of those that are put back
        module.add_module(name, child)
