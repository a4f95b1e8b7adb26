"""Muon: momentum whose matrices are orthogonalized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.optimizers._base import FlatOptimizer, FlatParameters, OptimizerOptions
from normbench.parts.options import option

QUINTIC = (3.4445, -4.7750, 2.0315)  # of the reference: steep at 0, near 1 from 0.3 to 1.1
ADAM: dict[str, Any] = {
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-10,
    "weight_decay": 0.0,
    "amsgrad": False,
    "maximize": False,
}
SMALLEST = 1e-7  # norm of a gradient that is divided by


@dataclass(frozen=True)
class Muon(OptimizerOptions):
    """Muon: each weight matrix moves by its momentum with all singular values near 1.

    m <- momentum * m + (1 - momentum) * g;  u = momentum * m + (1 - momentum) * g, or m without
    nesterov;  X = u / |u|, then ns_steps times X <- a X + (b A + c A^2) X with A = X X';
    p <- (1 - lr * weight_decay) * p - lr * sqrt(max(1, out / in)) * X.
    p, g, m: weights with two or more axes but the classifier's, as matrices (out, in): the kernel
    of a convolution belongs to in; a, b, c = 3.4445, -4.7750, 2.0315; |u| the Frobenius norm. All
    other parameters follow adam with the rate lr / 0.02 * adam_lr, beta1=0.9, beta2=0.95 and
    eps=1e-10.

    Args: lr: learning rate, before the schedule. momentum: share of m that stays. nesterov: look
        ahead by one step of momentum. ns_steps: of the iteration. adam_lr: learning rate of adam at
        lr=0.02. weight_decay: on parameters with two or more axes only, taken off the parameter.
    Limits: the iteration is in the precision of the parameters, the reference's in bfloat16.
    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon.
    """

    rescales: ClassVar[bool] = True

    lr: float = option(0.02, above=0, high=1e30)
    momentum: float = option(0.95, low=0, below=1)
    nesterov: bool = True
    ns_steps: int = option(5, low=1, high=99)
    adam_lr: float = option(1e-3, above=0, high=1e30)

    def bind(self, model: nn.Module, decay_all: bool = False) -> FlatOptimizer:
        """Return the optimizer of the parameters of `model`."""
        return FlatMuon(model, decay_all, self)


class FlatMuon(FlatOptimizer):
    """Steps matrices one by one, and all others by one call of torch's fused Adam."""

    def __init__(self, model: nn.Module, decay_all: bool, options: Muon) -> None:
        super().__init__(FlatParameters(model, decay_all))
        self.options = options
        for name in ("momentum", "mean", "square"):
            self.state[name] = torch.zeros_like(self.params)
        self.state["steps"] = torch.zeros_like(self.params[0])
        heads = {
            id(each.weight)
            for each in model.modules()
            if isinstance(each, nn.Linear) and getattr(each, "classifies", False)
        }
        trained = [each for each in model.parameters() if each.requires_grad]
        matrices = [each.dim() >= 2 and id(each) not in heads for each in trained]
        self.matrices = [
            self._views(each, "momentum")
            for each, is_one in zip(trained, matrices, strict=True)
            if is_one
        ]
        others = [
            self._views(each, "mean", "square")
            for each, is_one in zip(trained, matrices, strict=True)
            if not is_one
        ]
        self.others = [list(each) for each in zip(*others, strict=True)]

    def step(self, lr: float) -> None:
        """Change the parameters by their gradients."""
        how = self.options
        if how.weight_decay:
            self.params[self._decayed].mul_(1 - lr * how.weight_decay)
        for weight, grad, momentum in self.matrices:
            momentum.lerp_(grad, 1 - how.momentum)
            update = grad.lerp(momentum, how.momentum) if how.nesterov else momentum
            matrix = orthogonalized(update.flatten(1), how.ns_steps)
            scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
            weight.sub_(matrix.view(weight.shape), alpha=lr * scale)
        steps = self.state["steps"].add_(1)
        if self.others:
            params, grads, means, squares = self.others
            rate, counts = lr / 0.02 * how.adam_lr, [steps] * len(params)
            torch._fused_adam_(params, grads, means, squares, [], counts, lr=rate, **ADAM)

    def _views(self, parameter: nn.Parameter, *state: str) -> list[Tensor]:
        """Return a parameter, its gradient, and the same place of tensors of the state."""
        place = parameter.shape, parameter.stride(), parameter.storage_offset()
        tensors = (self.params, self.grad, *(self.state[name] for name in state))
        return [tensor.as_strided(*place) for tensor in tensors]


def orthogonalized(matrix: Tensor, steps: int) -> Tensor:
    """Return a matrix with the singular vectors of another and singular values near 1."""
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = (matrix.T if tall else matrix) / matrix.norm().clamp_min(SMALLEST)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T.contiguous() if tall else x
