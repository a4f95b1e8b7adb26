"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from dataclasses import dataclass

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
    """At most five tensor calls per step, whatever the number of parameters."""

    def __init__(self, flat: FlatParameters, options: SGD) -> None:
        super().__init__(flat)
        self.options = options
        if options.momentum:
            self.state["momentum"] = torch.zeros_like(self.params)

    def step(self, lr: float) -> None:
        """Change the parameters by their gradients, which it uses up: read their norm before."""
        momentum, change = self.options.momentum, self.grad
        self._decay(self.options.weight_decay)
        if momentum:
            average = self.state["momentum"].mul_(momentum).add_(change)
            change = change.add_(average, alpha=momentum) if self.options.nesterov else average
        self.params.add_(change, alpha=-lr)
