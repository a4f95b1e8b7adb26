"""RAdam: Adam whose first steps wait until the size of the gradient is known."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim.radam import radam

from normbench.optimizers._torch import MomentOptions, Rule
from normbench.parts.options import option


@dataclass(frozen=True)
class RAdam(MomentOptions):
    """Adam with a rectified rate: small while few gradients say how large they are.

    d = g + weight_decay * p;  m <- beta1 * m + (1 - beta1) * d;
    s <- beta2 * s + (1 - beta2) * d^2;  at step t = 1, 2, ...  with c = 2 / (1 - beta2) - 1 and
    r = c - 2 t beta2^t / (1 - beta2^t):  p <- p - lr * m / (1 - beta1^t) * q, where for r > 5
    q = sqrt((r - 4) (r - 2) c / ((c - 4) (c - 2) r)) * sqrt(1 - beta2^t) / (sqrt(s) + eps),
    otherwise q = 1.  p, g, m, s: all parameters; m and s start at 0. By torch's function.

    Args: lr: learning rate, before the schedule (torch's default: 0.001). beta1: share of m that
        stays. beta2: share of s that stays. eps: added to the root. weight_decay: on parameters
        with two or more axes only. decoupled_weight_decay: take lr * weight_decay * p off the
        parameters instead of adding to the gradient.
    Source: Liu et al. 2020, arXiv 1908.03265, algorithm 2; there r > 4, in its code 5 as here.
    """

    lr: float = option(3e-3, above=0, high=1e30)
    decoupled_weight_decay: bool = False

    def rule(self) -> Rule:
        """Return torch's function with the options."""
        return Rule(
            radam,
            tensors={"exp_avgs": 0.0, "exp_avg_sqs": 0.0},
            numbers={"state_steps": 0.0},
            options=self.moments(),
            decoupled=self.decoupled_weight_decay,
        )
