"""Rprop: steps by the signs of the gradient alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.rprop import rprop

from normbench.optimizers._base import FlatParameters
from normbench.optimizers._torch import FlatTorch, Rule, TorchOptions
from normbench.parts.options import option


@dataclass(frozen=True)
class Rprop(TorchOptions):
    """Resilient propagation: step sizes grow while the sign of the gradient stays, and shrink.

    d = g + weight_decay * p;  h <- h * etaplus where d * d' > 0, h * etaminus where d * d' < 0,
    kept within step_min .. step_max;  d <- 0 where d * d' < 0;  p <- p - h * sign(d);  d' <- d.
    p, g, h, d': all parameters; h starts at lr and d' at 0. When the schedule changes lr, every h
    changes by the same factor (torch's stays). By torch's function. Made for full batches: with
    small ones signs change by chance, and the steps shrink.

    Args: lr: first step size, before the schedule. etaminus: factor that shrinks. etaplus: factor
        that grows. step_min: least step size. step_max: largest. weight_decay: on parameters with
        two or more axes only; torch's has none.
    Raises: OptimizerError if step_min is above step_max.
    Source: Riedmiller & Braun 1993, IEEE ICNN; without step back, Igel & Huesken 2000 (iRprop-).
    """

    lr: float = option(1e-2, above=0, high=1e30)
    etaminus: float = option(0.5, above=0, below=1)
    etaplus: float = option(1.2, above=1, high=1e30)
    step_min: float = option(1e-6, low=0, high=1e30)
    step_max: float = option(50.0, above=0, high=1e30)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_min > self.step_max:
            why = f"is above step_max={self.step_max}"
            raise self.error("step_min", str(self.step_min), why, self.step_max)

    def rule(self) -> Rule:
        """Return torch's function with the options."""
        return Rule(
            rprop,
            tensors={"prevs": 0.0, "step_sizes": 1.0},
            numbers={"state_steps": 0.0},
            options={
                "etaminus": self.etaminus,
                "etaplus": self.etaplus,
                "step_size_min": self.step_min,
                "step_size_max": self.step_max,
            },
        )

    def bind(self, model: nn.Module, decay_all: bool = False) -> FlatRprop:
        """Return the optimizer of the parameters of `model`."""
        return FlatRprop(FlatParameters(model, decay_all), self.rule(), self.weight_decay)


class FlatRprop(FlatTorch):
    """Scales the step sizes with the learning rate, which torch's function does not know."""

    def __init__(self, flat: FlatParameters, rule: Rule, weight_decay: float) -> None:
        super().__init__(flat, rule, weight_decay)
        self.state["lr"] = torch.ones((), dtype=torch.float64, device="cpu")

    def step(self, lr: float) -> None:
        """Change the parameters by their gradients, which it uses up: read their norm before."""
        before = float(self.state["lr"])
        if lr != before:
            self.state["step_sizes"].mul_(lr / before)
            self.state["lr"].fill_(lr)
        self._regularize(lr)
        self._apply()
