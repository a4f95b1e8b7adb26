"""RMSprop: steps scaled by the running size of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.optim.rmsprop import rmsprop

from normbench.optimizers._torch import Rule, TorchOptions
from normbench.parts.options import option


@dataclass(frozen=True)
class RMSprop(TorchOptions):
    """RMSprop: each parameter's gradient is divided by its running size.

    d = g + weight_decay * p;  s <- alpha * s + (1 - alpha) * d^2;
    p <- p - lr * d / (sqrt(s) + eps), or with momentum
    m <- momentum * m + d / (sqrt(s) + eps);  p <- p - lr * m.  With centered, s - a^2 stands in
    place of s under the root, where a <- alpha * a + (1 - alpha) * d.
    p, g, s, m, a: all parameters; s, m and a start at 0. By torch's function.

    Args: lr: learning rate, before the schedule (torch's default: 0.01). alpha: share of s that
        stays. eps: added to the root. momentum: share of m that stays, 0 for none. centered:
        divide by the deviation of the gradient instead of its size. weight_decay: on parameters
        with two or more axes only.
    Source: Tieleman & Hinton 2012, Coursera lecture 6.5; centered: Graves 2013, arXiv 1308.0850.
    """

    lr: float = option(1e-3, above=0, high=1e30)
    alpha: float = option(0.99, low=0, below=1)
    eps: float = option(1e-8, above=0)
    momentum: float = option(0.0, low=0, below=1)
    centered: bool = False

    def rule(self) -> Rule:
        """Return torch's function with the options."""
        used = {"grad_avgs": self.centered, "momentum_buffer_list": self.momentum > 0}
        unused: dict[str, Any] = {name: [] for name, needed in used.items() if not needed}
        names = ("alpha", "eps", "momentum", "centered")
        return Rule(
            rmsprop,
            tensors={"square_avgs": 0.0, **{name: 0.0 for name, needed in used.items() if needed}},
            numbers={"state_steps": 0.0},
            options={**{name: getattr(self, name) for name in names}, **unused},
        )
