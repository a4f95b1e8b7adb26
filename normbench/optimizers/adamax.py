"""Adamax: Adam by the largest gradient in place of the root of its mean square."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim.adamax import adamax

from normbench.optimizers._torch import MomentOptions, Rule
from normbench.parts.options import option


@dataclass(frozen=True)
class Adamax(MomentOptions):
    """Adamax: each parameter's step is divided by the largest of its fading gradients.

    d = g + weight_decay * p;  m <- beta1 * m + (1 - beta1) * d;  u <- max(beta2 * u, |d| + eps);
    p <- p - lr / (1 - beta1^t) * m / u  at step t = 1, 2, ...
    p, g, m, u: all parameters; m and u start at 0. By torch's function.

    Args: lr: learning rate, before the schedule. beta1: share of m that stays. beta2: share of u
        that stays. eps: added to the size of the gradient, the paper has none. weight_decay: on
        parameters with two or more axes only.
    Source: Kingma & Ba 2015, arXiv 1412.6980, algorithm 2.
    """

    lr: float = option(2e-3, above=0, high=1e30)

    def rule(self) -> Rule:
        """Return torch's function with the options."""
        return Rule(
            adamax,
            tensors={"exp_avgs": 0.0, "exp_infs": 0.0},
            numbers={"state_steps": 0.0},
            options=self.moments(),
        )
