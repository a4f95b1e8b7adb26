"""The base of the optimizers of torch.optim: one of its functions over the flat parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from normbench.optimizers._base import FlatOptimizer, FlatParameters, OptimizerOptions
from normbench.parts.options import option


@dataclass(frozen=True)
class Rule:
    """A function of torch.optim, such as `torch.optim.rmsprop.rmsprop`, and what it takes.

    torch's classes wrap these functions; to construct one imports torch's compiler, which takes
    longer than importing torch itself, in every run of a sweep.

    Args: function: takes lists of parameters and gradients. tensors: its state by name of the
        argument, with starting values, as large as the parameters. numbers: likewise single
        numbers, such as the steps so far. options: its arguments besides learning rate and weight
        decay. decoupled: take weight decay off the parameters instead of adding to the gradient.
    """

    function: Callable[..., None]
    tensors: Mapping[str, float]
    numbers: Mapping[str, float]
    options: Mapping[str, Any]
    decoupled: bool = False


class FlatTorch(FlatOptimizer):
    """Steps by a rule of torch.optim, all parameters as one tensor.

    Single numbers of the state lie on the CPU, where torch reads them without waiting for the
    device, in float64. Weight decay is done here, since it is for a part of the tensor only.

    Args: weight_decay: added to the gradient, or with a decoupled rule taken off the parameters:
        p <- p - lr * weight_decay * p.
    """

    def __init__(self, flat: FlatParameters, rule: Rule, weight_decay: float) -> None:
        super().__init__(flat)
        self.rule, self.weight_decay = rule, weight_decay
        for name, start in rule.tensors.items():
            self.state[name] = torch.full_like(self.params, start)
        for name, start in rule.numbers.items():
            self.state[name] = torch.tensor(start, dtype=torch.float64, device="cpu")
        self._lists = {name: [tensor] for name, tensor in self.state.items()}

    def step(self, lr: float) -> None:
        """Change the parameters by their gradients, which it uses up: read their norm before."""
        self._regularize(lr)
        self._apply(lr=lr, weight_decay=0.0)

    def _regularize(self, lr: float) -> None:
        if not self.rule.decoupled:
            self._decay(self.weight_decay)
        elif self.weight_decay:
            self.params[self._decayed].mul_(1 - lr * self.weight_decay)

    def _apply(self, **numbers: float) -> None:
        options = {"foreach": False, "maximize": False, **self.rule.options, **numbers}
        self.rule.function([self.params], [self.grad], **self._lists, **options)


@dataclass(frozen=True)
class TorchOptions(OptimizerOptions):
    """The options of an optimizer that steps by a rule of torch.optim."""

    rescales: ClassVar[bool] = True

    def rule(self) -> Rule:
        """Return torch's function with the options."""
        raise NotImplementedError

    def bind(self, model: nn.Module, decay_all: bool = False) -> FlatTorch:
        """Return the optimizer of the parameters of `model`."""
        return FlatTorch(FlatParameters(model, decay_all), self.rule(), self.weight_decay)


@dataclass(frozen=True)
class MomentOptions(TorchOptions):
    """The options of Adam and its kin, which follow two moments of the gradient.

    Args: beta1, beta2: shares of the first and second moment that stay. eps: added to the root.
    """

    beta1: float = option(0.9, low=0, below=1)
    beta2: float = option(0.999, low=0, below=1)
    eps: float = option(1e-8, above=0)

    def moments(self) -> dict[str, float]:
        """Return the arguments of a rule that come from these options."""
        return {"beta1": self.beta1, "beta2": self.beta2, "eps": self.eps}
