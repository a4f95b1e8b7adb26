"""Adagrad: steps scaled by the sum of all squared gradients."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim.adagrad import adagrad

from normbench.optimizers._torch import Rule, TorchOptions
from normbench.parts.options import option


@dataclass(frozen=True)
class Adagrad(TorchOptions):
    """Adagrad: each parameter's step is divided by the root of all its squared gradients so far.

    d = g + weight_decay * p;  s <- s + d^2;  at step t = 1, 2, ...
    p <- p - lr / (1 + (t - 1) * lr_decay) * d / (sqrt(s) + eps).
    p, g, s: all parameters; s starts at `start`. By torch's function.

    Args: lr: learning rate, before the schedule. lr_decay: its decay, besides the schedule.
        start: value of s before the first step (torch: initial_accumulator_value). eps: added to
        the root. weight_decay: on parameters with two or more axes only.
    Source: Duchi, Hazan & Singer 2011, JMLR 12, the diagonal form.
    """

    lr: float = option(1e-2, above=0, high=1e30)
    lr_decay: float = option(0.0, low=0, high=1e30)
    start: float = option(0.0, low=0, high=1e30)
    eps: float = option(1e-10, above=0)

    def rule(self) -> Rule:
        """Return torch's function with the options."""
        return Rule(
            adagrad,
            tensors={"state_sums": self.start},
            numbers={"state_steps": 0.0},
            options={"lr_decay": self.lr_decay, "eps": self.eps},
        )
