"""AdamW: Adam with weight decay apart from the gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.optim.adamw import adamw

from normbench.optimizers._base import Flat, Optimizer, Stepper
from normbench.optimizers._torch import Rule, TorchStepper
from normbench.parts.options import option


@dataclass(frozen=True)
class AdamW(Optimizer):
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
    beta1: float = option(0.9, low=0, below=1)
    beta2: float = option(0.999, low=0, below=1)
    eps: float = option(1e-8, above=0)
    weight_decay: float = option(1e-2, low=0, high=1e30)

    def bind(self, model: nn.Module, decay_all: bool = False) -> Stepper:
        """Return the stepper for the parameters of `model`."""
        options = {"beta1": self.beta1, "beta2": self.beta2, "eps": self.eps}
        rule = Rule(
            adamw,
            tensors={"exp_avgs": 0.0, "exp_avg_sqs": 0.0},
            numbers={"state_steps": 0.0},
            options={**options, "amsgrad": False, "max_exp_avg_sqs": []},
        )
        return TorchStepper(Flat(model, decay_all), rule, self.weight_decay, decoupled=True)
