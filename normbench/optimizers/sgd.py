"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from normbench.optimizers._base import FlatOptimizer, FlatParameters, OptimizerOptions
from normbench.parts.options import option


@dataclass(frozen=True)
class SGD(OptimizerOptions):
    """Stochastic gradient descent with momentum and weight decay.

    d = g + weight_decay * p;  m <- momentum * m + d;  p <- p - lr * m, or with nesterov
    p <- p - lr * (d + momentum * m).  p, g, m: all parameters; m starts at 0. As torch's.

    Args: lr: learning rate, before the schedule. momentum: share of m that stays, 0 for none.
        nesterov: look ahead by one step of momentum. weight_decay: on parameters with two or more
        axes only.
    Raises: OptimizerError if nesterov is set without momentum.
    Source: Sutskever et al. 2013, ICML, in the form where lr stands outside of m.
    """

    aliases: ClassVar[tuple[str, ...]] = ("momentum", "nesterov")

    lr: float = option(0.03, above=0, high=1e30)
    momentum: float = option(0.9, low=0, below=1)
    nesterov: bool = False
    weight_decay: float = option(5e-4, low=0, high=1e30)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            why = "needs a momentum above 0"
            raise self.error("nesterov", "true", why, "optimizer.momentum=0.9")

    def bind(self, model: nn.Module, decay_all: bool = False) -> FlatOptimizer:
        """Return the optimizer of the parameters of `model`."""
        return FlatSGD(FlatParameters(model, decay_all), self)


class FlatSGD(FlatOptimizer):
    """One pass over all parameters, as one call for each of the two weight decays."""

    def __init__(self, flat: FlatParameters, options: SGD) -> None:
        super().__init__(flat)
        self.options = options
        if options.momentum:
            self.state["momentum"] = torch.zeros_like(self.params)
        self.parts = self._parts(options.weight_decay, *self.state)
        self.how = {
            "momentum": options.momentum,
            "nesterov": options.nesterov,
            "dampening": 0.0,
            "maximize": False,
            "is_first_step": False,  # momentum starts at 0, which gives the same
        }

    def step(self, lr: float) -> None:
        """Change the parameters by their gradients."""
        for decay, (params, grads, *momentum) in self.parts:
            averages = momentum[0] if momentum else []
            torch._fused_sgd_(params, grads, averages, weight_decay=decay, lr=lr, **self.how)
