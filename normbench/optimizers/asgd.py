"""Averaged stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.optim.asgd import asgd

from normbench.optimizers._base import FlatParameters
from normbench.optimizers._torch import FlatTorch, Rule, TorchOptions
from normbench.parts.options import option


@dataclass(frozen=True)
class ASGD(TorchOptions):
    """Gradient descent with a falling rate, and an average of the parameters beside it.

    d = g + weight_decay * p;  at step t = 1, 2, ...  h = lr / (1 + lambd * lr * (t - 1))^alpha;
    p <- (1 - lambd * h) * p - h * d;  a <- a + (p - a) / max(1, t - 1 - t0).
    p, g, a: all parameters. By torch's function, but that h has no step's delay against the
    schedule. As in torch the average a is kept with the state only: what is evaluated is p.

    Args: lr: learning rate, before the schedule (torch's default: 0.01). lambd: decay of all
        parameters, and of the rate. alpha: power of the fall of the rate. t0: step after which
        the average begins. weight_decay: on parameters with two or more axes only.
    Source: Polyak & Juditsky 1992, SIAM J. Control Optim. 30; the rate: Xu 2011, arXiv 1107.2490.
    """

    rescales: ClassVar[bool] = False

    lr: float = option(0.1, above=0, high=1e30)
    lambd: float = option(1e-4, low=0, high=1e30)
    alpha: float = option(0.75, low=0, high=1e30)
    t0: float = option(1e6, low=0, high=1e30)

    def rule(self) -> Rule:
        """Return torch's function with the options."""
        return Rule(
            asgd,
            tensors={"axs": 0.0},
            numbers={"state_steps": 0.0, "etas": 0.0, "mus": 1.0},
            options={"lambd": self.lambd, "alpha": self.alpha, "t0": self.t0},
        )

    def bind(self, model: nn.Module, decay_all: bool = False) -> FlatASGD:
        """Return the optimizer of the parameters of `model`."""
        return FlatASGD(FlatParameters(model, decay_all), self.rule(), self.weight_decay)


class FlatASGD(FlatTorch):
    """Sets the rate of each step, which torch's function makes of the lr of the step before."""

    def step(self, lr: float) -> None:
        """Change the parameters by their gradients, which it uses up: read their norm before."""
        how, steps = self.rule.options, float(self.state["state_steps"])
        self.state["etas"].fill_(lr / (1 + how["lambd"] * lr * steps) ** how["alpha"])
        super().step(lr)
