"""Adam: steps scaled by running moments of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from normbench.optimizers._base import FlatOptimizer, FlatParameters, OptimizerOptions
from normbench.parts.options import option


@dataclass(frozen=True)
class Adam(OptimizerOptions):
    """Adam: each parameter's step is divided by the running size of its gradient.

    d = g + weight_decay * p;  m <- beta1 * m + (1 - beta1) * d;
    s <- beta2 * s + (1 - beta2) * d^2;  at step t = 1, 2, ...
    p <- p - lr * (m / (1 - beta1^t)) / (sqrt(s / (1 - beta2^t)) + eps).
    p, g, m, s: all parameters; m and s start at 0. As torch's.

    Args: lr: learning rate, before the schedule. beta1: share of m that stays. beta2: share of s
        that stays. eps: added to the root. weight_decay: on parameters with two or more axes
        only, added to the gradient.
    Source: Kingma & Ba 2015, arXiv 1412.6980, algorithm 1.
    """

    rescales: ClassVar[bool] = True

    lr: float = option(1e-3, above=0, high=1e30)
    beta1: float = option(0.9, low=0, below=1)
    beta2: float = option(0.999, low=0, below=1)
    eps: float = option(1e-8, above=0)

    def bind(self, model: nn.Module, decay_all: bool = False) -> FlatOptimizer:
        """Return the optimizer of the parameters of `model`."""
        return FlatAdam(FlatParameters(model, decay_all), self)


class FlatAdam(FlatOptimizer):
    """One pass over all parameters, as one call for each of the two weight decays."""

    def __init__(self, flat: FlatParameters, options: Adam) -> None:
        super().__init__(flat)
        self.options = options
        self.state = {
            "mean": torch.zeros_like(self.params),
            "square": torch.zeros_like(self.params),
            "steps": torch.zeros_like(self.params[0]),  # beside them: a GPU then need not wait
        }
        self.steps = [self.state["steps"]]
        self.parts = self._parts(options.weight_decay, "mean", "square")
        self.how = {
            "beta1": options.beta1,
            "beta2": options.beta2,
            "eps": options.eps,
            "amsgrad": False,
            "maximize": False,
        }

    def step(self, lr: float) -> None:
        """Change the parameters by their gradients."""
        torch._foreach_add_(self.steps, 1)
        for decay, (params, grads, means, squares) in self.parts:
            given: tuple[Any, ...] = (params, grads, means, squares, [], self.steps)
            torch._fused_adam_(*given, weight_decay=decay, lr=lr, **self.how)
