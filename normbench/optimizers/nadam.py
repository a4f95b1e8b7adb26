"""NAdam: Adam with Nesterov's momentum."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim.nadam import nadam

from normbench.optimizers._torch import MomentOptions, Rule
from normbench.parts.options import option


@dataclass(frozen=True)
class NAdam(MomentOptions):
    """Adam whose momentum looks ahead by one step, as Nesterov's does.

    d = g + weight_decay * p;  m <- beta1 * m + (1 - beta1) * d;
    s <- beta2 * s + (1 - beta2) * d^2;  b_t = beta1 * (1 - 0.96^(t * momentum_decay) / 2);
    p <- p - lr * (b_(t+1) * m / (1 - b_1 ... b_(t+1)) + (1 - b_t) * d / (1 - b_1 ... b_t))
    / (sqrt(s / (1 - beta2^t)) + eps)  at step t = 1, 2, ...
    p, g, m, s: all parameters; m and s start at 0. By torch's function.

    Args: lr: learning rate, before the schedule. beta1: share of m that stays. beta2: share of s
        that stays. eps: added to the root. momentum_decay: how fast b_t rises to beta1.
        weight_decay: on parameters with two or more axes only. decoupled_weight_decay: take
        lr * weight_decay * p off the parameters instead of adding to the gradient.
    Source: Dozat 2016, ICLR workshop, algorithm 2, with beta1 in place of b_t in m, as torch's.
    """

    lr: float = option(2e-3, above=0, high=1e30)
    momentum_decay: float = option(4e-3, low=0, high=1e30)
    decoupled_weight_decay: bool = False

    def rule(self) -> Rule:
        """Return torch's function with the options."""
        return Rule(
            nadam,
            tensors={"exp_avgs": 0.0, "exp_avg_sqs": 0.0},
            numbers={"state_steps": 0.0, "mu_products": 1.0},
            options={**self.moments(), "momentum_decay": self.momentum_decay},
            decoupled=self.decoupled_weight_decay,
        )
