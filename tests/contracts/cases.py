"""Puts parts beside their oracles: finds the oracles, lists cases, builds and trains the norms.

An oracle of a norm declares, as `tests/oracles/norms/*.py` show:

KIND        what is tested: `features`, `activation`, `linear`, or several joined by `+`; joined
            ones are children `linear`, `norm`, `act` of one module, in this order.
OPTIONS     option sets; the first is `{}`.
SHAPES      input shapes of every option set (features, activation), large ones first.
LAYERS      functions that make a linear layer; INPUTS, the input shape for each (linear).
CASES       instead of the first option set everywhere, the others on every second shape: a list
            of (options, shape) or (options, index of the layer).
REFUSED     (options, input, pattern): what must raise. input: None, a shape, a function that makes
            the linear layer, or the pair of such a function and a shape.
INVARIANT   what the training output does not see; see `test_norms.CHANGES`.
EXACT       the options with which that is exact, `{"eps": 0.0}` if not given.
RUN         options that a run settles, such as a schedule in training forwards where the default
            is a share of them: the cases have these, where they set nothing else.
RANDOM      False: parameters are not overwritten with random values before the comparison.
GRADCHECK   False: the gradients are partial on purpose.
MEAN        the mean of the inputs in the comparison of float32 with float64.
Oracle      one instance follows one layer. Beside the methods of the brief: `after_backward()`,
            `step()` for the hooks, and `accumulate`, training forwards for each optimizer step.
"""

from __future__ import annotations

import copy
import importlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from normbench import norms
from normbench.norms._base import Norm
from normbench.parts import registry

SHAPES = [
    *[(6, 5), (2, 5), (6, 5, 4), (2, 3, 7)],
    *[(6, 5, 4, 3), (2, 5, 4, 3), (1, 5, 4, 3), (6, 5, 1, 1), (2, 5, 1, 1)],
]
CHILDREN = {"linear": "linear", "features": "norm", "activation": "act"}


def own(group: str) -> list[str]:
    """The parts of a group that are normbench's own."""
    return [
        each for each in registry.names(group) if registry.facts(group, each).package == "normbench"
    ]


def oracle_of(group: str, name: str) -> ModuleType:
    """The file that holds the reference of a part."""
    return importlib.import_module(f"oracles.{registry.KINDS[group][0]}.{name}")


def create(name: str, **options: Any) -> Norm:
    """A norm as in a run, which settles what its oracle says; chains are as they are."""
    settled = {} if "+" in name else getattr(oracle_of("norm", name), "RUN", {})
    return norms.create(name, **settled | options)


@dataclass(frozen=True)
class Case:
    """One norm with options, for inputs of one shape; `layer` is the index of a linear layer."""

    name: str
    options: dict[str, Any]
    shape: tuple[int, ...]
    layer: int | None = None

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return "-".join(filter(None, (self.name, options, "x".join(map(str, self.shape)))))

    @property
    def reference(self) -> ModuleType:
        return oracle_of("norm", self.name)

    @property
    def norm(self) -> Norm:
        return create(self.name, **self.options)

    @property
    def kinds(self) -> list[str]:
        return self.reference.KIND.split("+")

    @property
    def dims(self) -> int:
        return len(self.shape) - 2

    def linear(self, seed: int = 0) -> nn.Module | None:
        """The plain linear layer of the case with values drawn from `seed`."""
        if self.layer is None:
            return None
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layer = self.reference.LAYERS[self.layer]()
            return layer.to(torch.get_default_dtype())

    def wrap(self, linear: nn.Module | None) -> nn.Module:
        """What the norm puts into a model, around `linear` where the case has one."""
        norm, channels = self.norm, width(linear) if linear else self.shape[1]
        made = {
            "linear": lambda: norm.linear(linear),
            "features": lambda: norm.layer(channels, self.dims),
            "activation": lambda: norm.activation(None, channels, self.dims),
        }
        if len(self.kinds) == 1:
            return made[self.kinds[0]]()
        children = [(CHILDREN[kind], made[kind]()) for kind in self.kinds]
        return nn.Sequential(OrderedDict(children))

    def module(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The norm as it starts, its linear layer drawn from `seed`."""
        with default_dtype(dtype):
            return self.wrap(self.linear(seed))

    def moved(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The norm with random parameters, some of them negative."""
        module = self.module(seed, dtype)
        if getattr(self.reference, "RANDOM", True):
            scatter(module, seed)
        return module

    def oracle(self, seed: int = 0) -> Any:
        with default_dtype(torch.float64):
            linear = self.linear(seed)
            start = (self.shape[1], self.dims) if linear is None else (linear,)
            return self.reference.Oracle(*start, **self.options)

    def inputs(self, seed: int, shape: tuple[int, ...] | None = None) -> Tensor:
        return 0.4 + 1.3 * draw(shape or self.shape, seed)

    @property
    def exact(self) -> Case:
        """The same case with options under which its invariances are exact."""
        known = registry.facts("norm", self.name).options
        options = getattr(self.reference, "EXACT", {"eps": 0.0} if "eps" in known else {})
        return Case(self.name, self.options | options, self.shape, self.layer)


def cases(name: str) -> list[Case]:
    """All cases of a norm that its oracle lists."""
    try:
        oracle = oracle_of("norm", name)
    except ModuleNotFoundError:  # that each part has an oracle is the matter of test_parts
        return []
    shapes = getattr(oracle, "INPUTS", None) or getattr(oracle, "SHAPES", SHAPES)
    linear = "linear" in oracle.KIND
    places = range(len(shapes)) if linear else shapes
    pairs = getattr(oracle, "CASES", None) or [
        (options, place)
        for i, options in enumerate(oracle.OPTIONS)
        for j, place in enumerate(places)
        if i == 0 or (i + j) % 2 or len(places) < 4
    ]
    if linear:
        return [Case(name, options, shapes[index], index) for options, index in pairs]
    return [Case(name, options, shape) for options, shape in pairs]


def chosen(name: str) -> list[Case]:
    """Of the first option set one case at each rank, of each other option set one: the first."""
    found: dict[Any, Case] = {}
    every = cases(name)
    for case in every:
        first = case.options == every[0].options
        found.setdefault((str(case.options), first and (case.dims, case.layer)), case)
    return list(found.values())


def plain(name: str) -> list[Case]:
    """The cases of `chosen` with default options."""
    return [case for case in chosen(name) if not case.options]


def width(linear: nn.Module) -> int:
    """The number of output channels."""
    return linear.weight.shape[0]


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def even(shape: tuple[int, ...], seed: int) -> Tensor:
    """Values of mean 0 and deviation 1 of which any few neighbours along an axis are spread."""
    steps = (2**0.5, 0.6180339887, 3**0.5, 7**0.5, 11**0.5)
    x = torch.zeros(shape, dtype=torch.float64)
    for axis, length in enumerate(shape):
        ramp = steps[axis] * torch.arange(length, dtype=torch.float64)
        x = x + ramp.reshape(-1, *[1] * (len(shape) - axis - 1))
    return (x % 1 - 0.5) * 12**0.5 + 0.1 * draw(shape, seed)


def scatter(module: nn.Module, seed: int) -> None:
    """Overwrite the parameters with random values: vectors alternate in sign."""
    generator = torch.Generator().manual_seed(seed + 1000)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            values = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5
            if parameter.dim() > 1:
                signs = torch.rand(parameter.shape, generator=generator).round() * 2 - 1
            else:
                signs = torch.arange(parameter.numel()).reshape(parameter.shape) % 2 * 2 - 1
            parameter.copy_(values * signs)


def forward_backward(
    module: nn.Module, x: Tensor, up: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the output and the gradient of the input for the upstream gradient `up`."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = module(x)
    y.backward(draw(tuple(y.shape), 77).to(y) if up is None else up)
    return y.detach(), x.grad


def descend(parameters: Any) -> None:
    """One step down the gradients, which are cleared."""
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
                parameter.grad = None


def train(case: Case, module: nn.Module, seeds: Iterator[int] | range) -> list[Tensor]:
    """Do a training step for each seed; return outputs and input gradients."""
    norm, seen = case.norm, []
    module.train()
    for seed in seeds:
        seen += forward_backward(module, case.inputs(seed).to(dtype_of(module)))
        norm.after_backward(module)
        descend(module.parameters())
        norm.after_step(module)
    return seen


def dtype_of(module: nn.Module) -> torch.dtype:
    values = [*module.parameters(), *module.buffers()]
    return next((each.dtype for each in values if each.is_floating_point()), torch.float64)


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dictionary."""
    return copy.deepcopy(module.state_dict())


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new tensors of this type: constants are then as precise as the computation."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
