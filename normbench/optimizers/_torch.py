"""What the optimizers of torch.optim share here: one of its functions over the flat parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from normbench.optimizers._base import Flat, Stepper


@dataclass(frozen=True)
class Rule:
    """A function of torch.optim, such as `torch.optim.rmsprop.rmsprop`, and what it takes.

    torch's classes wrap these functions; to construct one imports torch's compiler, which takes
    longer than importing torch itself, in every run of a sweep.

    Args: function: takes lists of parameters and gradients. tensors: its state by name of the
        argument, with starting values, as large as the parameters. numbers: likewise single
        numbers, such as the steps so far. options: its arguments besides learning rate and weight
        decay.
    """

    function: Callable[..., None]
    tensors: Mapping[str, float]
    numbers: Mapping[str, float]
    options: Mapping[str, Any]


class TorchStepper(Stepper):
    """Steps by a rule of torch.optim, all parameters as one tensor.

    Single numbers of the state lie on the CPU, where torch reads them without waiting for the
    device, in float64. Weight decay is done here, since it is for a part of the tensor only.

    Args: weight_decay: added to the gradient, or with `decoupled` taken off the parameters:
        p <- p - lr * weight_decay * p.
    """

    def __init__(
        self, flat: Flat, rule: Rule, weight_decay: float, decoupled: bool = False
    ) -> None:
        super().__init__(flat)
        self.rule, self.weight_decay, self.decoupled = rule, weight_decay, decoupled
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
        if not self.decoupled:
            self._decay(self.weight_decay)
        elif self.weight_decay:
            self.params[self._decayed].mul_(1 - lr * self.weight_decay)

    def _apply(self, **numbers: float) -> None:
        options = {"foreach": False, "maximize": False, **self.rule.options, **numbers}
        self.rule.function([self.params], [self.grad], **self._lists, **options)
