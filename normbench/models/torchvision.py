"""Torchvision's convolutional networks, traced and rebuilt with the units of the run."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx, nn
from torchvision import ops

from normbench.errors import ModelError, NormError
from normbench.models._base import Model, Shape
from normbench.models._tracing import (
    USUAL,
    Shapes,
    Tracer,
    architectures,
    hollow_network,
    layer_of,
    only_user,
    role_of,
    width_of,
)
from normbench.norms._units import Conv2d, Dropout, Linear, Unit, UnitBuilder

LARGEST = 1024  # the side of an image up to which the least one is looked for
SHAPE = (
    *("in_channels", "out_channels", "kernel_size"),
    *("stride", "padding", "dilation", "groups"),
)


@dataclass(frozen=True)
class Torchvision(Model):
    """A convolutional network of torchvision, with the run's norm in the place of its own.

    The network is what `torchvision.models` builds under the name `arch`, without trained weights.
    Each BatchNorm2d becomes the run's norm, whose own options count; a norm of weights acts on the
    linear layers right before them, or on all but the last where there are no norms (alexnet, vgg,
    squeezenet; they take no norm of features) or these stand before the convolutions (densenet).
    The first convolution takes the channels of the data, the last linear layer, called `head`,
    gives its classes. An activation stays what torchvision made it unless the run or the norm names
    one. `dropout` is the probability of torchvision's own dropout layers, 0 leaves them out.
    `bias=auto` keeps torchvision's biases, but before a norm, where the norm decides. Gates
    (squeeze and excitation) stay as they are, stochastic depth has torchvision's rates, auxiliary
    classifiers are left out. 11,181,642 parameters for resnet18 on CIFAR-10 with two per normalized
    channel.

    Args: arch: a name of `torchvision.models.list_models(module=torchvision.models)`.
    Raises: ModelError for an unknown name, for a network with other norms than BatchNorm2d (vit,
        swin, maxvit, convnext), for images that are too small, for a placement other than `pre`,
        and for dropout where torchvision has none; NormError for a norm without a place.
    Source: TorchVision maintainers and contributors 2016; each name's paper is in its manual.
    """

    aliases: ClassVar[tuple[str, ...]] = (
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "vgg16",
        "vgg19",
        "densenet121",
        "mobilenet_v2",
    )
    spatial: ClassVar[bool] = True
    activation: ClassVar[str] = "auto"

    arch: str = "resnet18"

    def build(self, units: UnitBuilder, shape: Shape, classes: int) -> nn.Module:
        """Build for images that leave at least one position everywhere."""
        if units.placement != "pre":
            why = f"has its norms before the activation, not at placement={units.placement}"
            raise ModelError("arch", self.arch, why, "placement=pre")
        network = _Network(self.arch, hollow_network(self.arch, classes), units)
        network.fit_to(shape)
        return network.rebuilt()


class StochasticDepth(Dropout):
    """Zeroes all of a sample with probability p in training and divides the others by 1 - p.

    Source: Huang, Sun, Liu, Sedra & Weinberger 2016, arXiv 1603.09382.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (N, C, H, W) with some samples zeroed in training, else `x` itself."""
        if not self.training:
            return x
        keep = x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - self.p, generator=self.generator)
        return x * keep.div_(1 - self.p)


class Traced(nn.Module):
    """The modules of a traced network and its forward: one class for all, not one for each."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__()
        for name, child in traced.named_children():
            self.add_module(name, child)
        self.run = type(traced).forward
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, K) of images `x` (N, C, H, W)."""
        logits: Tensor = self.run(self, x)
        return logits


class _Network:
    """The graph of a network without values, and how its calls turn into units.

    A graph, because what follows what, and each call of an activation that several places share or
    that is a function, cannot be seen in the modules.
    """

    def __init__(self, arch: str, hollow: nn.Module, units: UnitBuilder) -> None:
        self.arch, self.hollow, self.units = arch, hollow, units
        self.graph = Tracer().trace(hollow)
        layers = {node: layer_of(node, hollow) for node in self.graph.nodes}
        self.layers = {node: layer for node, layer in layers.items() if layer is not None}
        self.roles = {node: role for node, layer in self.layers.items() if (role := role_of(layer))}
        linear, normed = self._with("linear"), self._with("norm")
        self.stem, self.head = linear[0], linear[-1]
        self.followed = {node for node in linear if self.roles.get(only_user(node)) == "norm"}
        after = len(self.followed) == len(normed) > 0
        self.placed = self.followed if after else set(linear[:-1])  # become units
        self._check_norm(bool(normed), after)
        self._check_dropout()

    def fit_to(self, shape: Shape) -> None:
        """Let the first convolution take the channels of `shape` (C, H, W), and note all shapes.

        Raises: ModelError if the images are too small.
        """
        channels, height, width = shape
        stem = self.layers[self.stem]
        assert isinstance(stem, nn.Conv2d)
        stem.in_channels = channels
        size = (stem.out_channels, channels, *stem.kernel_size)
        stem.weight = nn.Parameter(torch.empty(size, device="meta"))

        def takes(height: int, width: int) -> bool:
            x = torch.empty(1, channels, height, width, device="meta")
            try:
                Shapes(self.hollow, graph=self.graph).run(x)
            except RuntimeError:
                return False
            return True

        if not takes(height, width):
            least = 1 + bisect_left(range(1, LARGEST), True, key=lambda side: takes(side, side))
            assert least > min(height, width)
            why = f"needs images of at least {least}x{least}, these are {height}x{width}"
            raise ModelError("arch", self.arch, why, USUAL)

    def rebuilt(self) -> nn.Module:
        """Return the network with units, its linear layers not yet filled."""
        done: set[fx.Node] = set()
        for node in list(self.graph.nodes):
            if self.roles.get(node) == "drop":
                self._put([node], str(node.target), self._drop(self.layers[node]))
            elif node in self.roles and node not in done:
                chain = self._chain(node)
                done.update(chain.values())
                self._put(list(chain.values()), self._path(node), self._unit(chain))
        for gate in self.hollow.modules():
            if isinstance(gate, ops.SqueezeExcitation):
                gate.fc1, gate.fc2 = _unfilled(gate.fc1, True), _unfilled(gate.fc2, True)
                gate.fc2.followed_by = "sigmoid"
        return Traced(fx.GraphModule(self.hollow, self.graph))

    def _with(self, role: str) -> list[fx.Node]:
        return [node for node, other in self.roles.items() if other == role]

    def _check_norm(self, any_norm: bool, after: bool) -> None:
        norm, subject = self.units.norm, type(self.units.norm).__name__.lower()
        if not any_norm and (norm.norms_features() or norm.uses_batch):
            normed = f"{self.arch}_bn"
            fix = f"model.arch={normed}" if normed in architectures() else USUAL
            why = f"model.arch={self.arch} has no norm layer whose place it could take"
            raise NormError("", subject, why, fix)
        if any_norm and not after and "preact" not in norm.places:
            why = f"cannot stand before the linear layers, as model.arch={self.arch} has its norms"
            raise NormError("", subject, why, USUAL)

    def _check_dropout(self) -> None:
        own = any(isinstance(layer, nn.Dropout) for layer in self.layers.values())
        if self.units.dropout and not own:
            why = f"has no dropout layer, dropout={self.units.dropout} has no place"
            raise ModelError("arch", self.arch, why, "dropout=0")

    def _chain(self, node: fx.Node) -> dict[str, fx.Node]:
        """Find the calls from `node` on that make one unit: linear layer, norm, activation."""
        found: dict[str, fx.Node] = {}
        follower: fx.Node | None = node
        for role in ("linear", "norm", "act"):
            if follower and self.roles.get(follower) == role:
                found[role] = follower
                alone = role == "linear" and follower not in self.placed
                follower = None if alone else only_user(follower)
        return found

    def _unit(self, chain: Mapping[str, fx.Node]) -> nn.Module | None:
        parts: dict[str, Callable[[fx.Node], nn.Module | None]] = {
            "linear": self._linear,
            "norm": lambda node: self.units.norm.layer(*width_of(node)),
            "act": lambda node: self.units.act(*width_of(node), type(self.layers[node])()),
        }
        (role, node), *_ = chain.items()
        if role == "act" or (role == "linear" and node not in self.placed):
            return parts[role](node)
        return Unit([(role, parts[role](node)) for role, node in chain.items()])

    def _linear(self, node: fx.Node) -> nn.Module:
        layer = self.layers[node]
        if node is self.head and isinstance(layer, nn.Linear):
            return self.units.head(layer.in_features, layer.out_features)
        made = _unfilled(layer, self._biased(node))
        if not self._activated(node):  # a linear bottleneck, for one
            made.followed_by = "identity"  # type: ignore[assignment]
        return made

    def _activated(self, node: fx.Node) -> bool:
        """Tell whether an activation comes before the next linear layer, also behind a sum."""
        return any(
            self.roles.get(user) == "act"
            or (self.roles.get(user) != "linear" and self._activated(user))
            for user in node.users
        )

    def _biased(self, node: fx.Node) -> bool:
        bias, own = self.units.bias, self.layers[node].bias is not None
        if node is self.head or bias != "auto":
            return node is self.head or bias == "on"
        if node in self.followed:
            return self.units.norm.bias
        return own and (self.units.norm.bias or node not in self.placed)

    def _drop(self, layer: nn.Module) -> nn.Module | None:
        if isinstance(layer, ops.StochasticDepth):
            return StochasticDepth(layer.p) if layer.p else None
        return Dropout(self.units.dropout) if self.units.dropout else None

    def _path(self, node: fx.Node) -> str:
        if node is self.head:
            return "head"
        return str(node.target) if node.op == "call_module" else node.name

    def _put(self, calls: list[fx.Node], path: str, module: nn.Module | None) -> None:
        """Let one call of `module`, or nothing, take the place of a row of calls."""
        (new,) = calls[0].all_input_nodes
        if module:
            self.hollow.set_submodule(path, module)
            with self.graph.inserting_before(calls[0]):
                new = self.graph.call_module(path, (new,))
        calls[-1].replace_all_uses_with(new)
        for call in reversed(calls):
            self.graph.erase_node(call)


def _unfilled(layer: nn.Module, bias: bool) -> nn.Module:
    """Make a linear layer of the same kind whose values are left to the initializer."""
    if isinstance(layer, nn.Linear):
        return Linear(layer.in_features, layer.out_features, bias=bias)
    return Conv2d(**{name: getattr(layer, name) for name in SHAPE}, bias=bias)
