"""Reads a network of torchvision: its graph without values, and the role of each call in it."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torchvision import models, ops

from normbench.errors import ModelError
from normbench.parts.options import nearest

USUAL = "model.arch=resnet18"  # takes images of any size
ROLES: dict[str, tuple[type[nn.Module], ...]] = {
    "linear": (nn.Conv2d, nn.Linear),
    "norm": (nn.BatchNorm2d,),
    "act": (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish),
    "drop": (nn.Dropout, ops.StochasticDepth),
}
WHOLE = (ops.SqueezeExcitation, ops.StochasticDepth)  # one module each in the new network as well
OTHERS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Sigmoid, nn.Hardsigmoid)
KNOWN = (*(kind for kinds in ROLES.values() for kind in kinds), *OTHERS, nn.Sequential)


class Tracer(fx.Tracer):
    """Sees the calls of torch's layers, and some modules of torchvision as a whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, WHOLE) or super().is_leaf_module(m, module_qualified_name)


class Shapes(fx.Interpreter):
    """Runs a graph and notes at each call the shape of what it gives."""

    @torch.no_grad()
    def run_node(self, n: fx.Node) -> Any:
        y = super().run_node(n)
        n.meta["shape"] = tuple(y.shape) if isinstance(y, Tensor) else ()
        return y


class _Valueless(TorchFunctionMode):
    """Leaves parameters and buffers without values: no memory, no time, no random numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        device = {"device": "meta"} if func in (torch.empty, torch.zeros, torch.ones) else {}
        return func(*args, **{**(kwargs or {}), **device})


def architectures() -> list[str]:
    """List the classification models of torchvision."""
    found: list[str] = models.list_models(module=models)
    return found


def hollow_network(arch: str, classes: int) -> nn.Module:
    """Make the network without values, in evaluation, where it has no auxiliary output."""
    if arch not in architectures():
        why = "torchvision has no classification model of this name"
        raise ModelError("arch", arch, why, nearest(arch, architectures()))
    # What a constructor computes with, such as the widths of a regnet, has values on any device.
    with torch.device("cpu"), _Valueless(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of an initialization that is not used
        hollow: nn.Module = models.get_model_builder(arch)(num_classes=classes).eval()
    leaves = [layer for layer in hollow.modules() if next(layer.children(), None) is None]
    foreign = sorted({type(layer).__name__ for layer in leaves if not isinstance(layer, KNOWN)})
    if foreign:
        why = (
            f"has layers of {', '.join(foreign)}: only convolutional networks "
            "with BatchNorm2d, or without any norm, can be built"
        )
        raise ModelError("arch", arch, why, USUAL)
    return hollow


def layer_of(node: fx.Node, hollow: nn.Module) -> nn.Module | None:
    """Return the module that a node calls; None if it calls something else."""
    if node.target is F.relu:
        return nn.ReLU()
    return hollow.get_submodule(str(node.target)) if node.op == "call_module" else None


def role_of(layer: nn.Module) -> str | None:
    """Return the role of a layer, a key of `ROLES`; None if it has none."""
    return next((role for role, kinds in ROLES.items() if isinstance(layer, kinds)), None)


def only_user(node: fx.Node) -> fx.Node | None:
    """Return the one node that uses what `node` gives; None if there are several or none."""
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def width_of(node: fx.Node) -> tuple[int, int]:
    """Return the channels and the number of spatial axes of what a node gives."""
    shape = node.meta["shape"]
    return shape[1], len(shape) - 2
