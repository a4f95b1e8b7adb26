"""NAdam: Adam with Nesterov's momentum."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.optim.nadam import nadam

from normbench.optimizers._base import Flat, Optimizer, Stepper
from normbench.optimizers._torch import Rule, TorchStepper
from normbench.parts.options import option


@dataclass(frozen=True)
class NAdam(Optimizer):
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
    beta1: float = option(0.9, low=0, below=1)
    beta2: float = option(0.999, low=0, below=1)
    eps: float = option(1e-8, above=0)
    momentum_decay: float = option(4e-3, low=0, high=1e30)
    weight_decay: float = option(0.0, low=0, high=1e30)
    decoupled_weight_decay: bool = False

    def bind(self, model: nn.Module, decay_all: bool = False) -> Stepper:
        """Return the stepper for the parameters of `model`."""
        options = {"beta1": self.beta1, "beta2": self.beta2, "eps": self.eps}
        rule = Rule(
            nadam,
            tensors={"exp_avgs": 0.0, "exp_avg_sqs": 0.0},
            numbers={"state_steps": 0.0, "mu_products": 1.0},
            options={**options, "momentum_decay": self.momentum_decay},
        )
        flat = Flat(model, decay_all)
        return TorchStepper(flat, rule, self.weight_decay, self.decoupled_weight_decay)
