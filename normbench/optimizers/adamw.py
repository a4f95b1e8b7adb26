"""AdamW: Adam with weight decay apart from the gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim.adamw import adamw

from normbench.optimizers._torch import MomentOptions, Rule
from normbench.parts.options import option


@dataclass(frozen=True)
class AdamW(MomentOptions):
    """Adam with decoupled weight decay: the decay is not scaled by the size of the gradient.

    m <- beta1 * m + (1 - beta1) * g;  s <- beta2 * s + (1 - beta2) * g^2;  at step t = 1, 2, ...
    p <- p - lr * weight_decay * p - lr * (m / (1 - beta1^t)) / (sqrt(s / (1 - beta2^t)) + eps).
    p, g, m, s: all parameters; m and s start at 0. By torch's function.

    Args: lr: learning rate, before the schedule. beta1: share of m that stays. beta2: share of s
        that stays. eps: added to the root. weight_decay: on parameters with two or more axes only.
    Source: Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2; the decay follows lr and not
        the schedule alone, as torch's.
    """

    lr: float = option(1e-3, above=0, high=1e30)
    weight_decay: float = option(1e-2, low=0, high=1e30)

    def rule(self) -> Rule:
        """Return torch's function with the options."""
        options = self.moments()
        return Rule(
            adamw,
            tensors={"exp_avgs": 0.0, "exp_avg_sqs": 0.0},
            numbers={"state_steps": 0.0},
            options={**options, "amsgrad": False, "max_exp_avg_sqs": []},
            decoupled=True,
        )
