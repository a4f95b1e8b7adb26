"""Adadelta: steps scaled so that they have the unit of the parameters."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim.adadelta import adadelta

from normbench.optimizers._torch import Rule, TorchOptions
from normbench.parts.options import option


@dataclass(frozen=True)
class Adadelta(TorchOptions):
    """Adadelta: the running size of the steps over that of the gradient takes the place of a rate.

    d = g + weight_decay * p;  s <- rho * s + (1 - rho) * d^2;
    x = sqrt(u + eps) / sqrt(s + eps) * d;  u <- rho * u + (1 - rho) * x^2;  p <- p - lr * x.
    p, g, s, u: all parameters; s and u start at 0. By torch's function.

    Args: lr: learning rate, before the schedule; the paper has none, that is 1. rho: share of s
        and u that stays. eps: added under the roots. weight_decay: on parameters with two or more
        axes only.
    Source: Zeiler 2012, arXiv 1212.5701, algorithm 1.
    """

    lr: float = option(1.0, above=0, high=1e30)
    rho: float = option(0.9, low=0, below=1)
    eps: float = option(1e-6, above=0)

    def rule(self) -> Rule:
        """Return torch's function with the options."""
        return Rule(
            adadelta,
            tensors={"square_avgs": 0.0, "acc_deltas": 0.0},
            numbers={"state_steps": 0.0},
            options={"rho": self.rho, "eps": self.eps},
        )
