"""Adaptive gradient clipping."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.norms._base import Norm
from normbench.parts.options import option


@dataclass(frozen=True)
class AGC(Norm):
    """Adaptive gradient clipping: no gradient is long against the parameter that it changes.

    Per row of a tensor with two or more axes, per tensor otherwise: where |g| >= limit, with
    limit = factor * max(|p|, eps), g <- g * limit / max(|g|, 1e-6);  p: a row or tensor of
    parameters, g: its gradient. Not a layer; acts once per step, between the backward pass and the
    optimizer. The classifier (parameters below `head.`) is left alone.

    Args: factor: largest ratio of |g| to |p|. eps: least norm of p that is assumed, so that
        parameters which start at zero can move.
    Limits: it bounds steps, not activations: a net without norm layers still needs a start that
        keeps signals in range, such as `scaled_ws` gives.
    Source: Brock et al. 2021, arXiv 2102.06171, eq. 3.
    """

    factor: float = option(0.01, above=0)
    eps: float = option(1e-3, low=0)

    @torch.no_grad()
    def after_backward(self, model: nn.Module) -> None:
        """Clip the gradients of `model` in place."""
        for path, parameter in model.named_parameters():
            if parameter.grad is not None and not path.startswith("head."):
                self._clip(parameter, parameter.grad)

    def _clip(self, parameter: Tensor, gradient: Tensor) -> None:
        axes = tuple(range(1, parameter.dim())) or None
        size, long = (
            torch.linalg.vector_norm(tensor, dim=axes, keepdim=axes is not None)
            for tensor in (parameter, gradient)
        )
        limit = self.factor * size.clamp_min(self.eps)
        gradient.mul_(torch.where(long >= limit, limit / long.clamp_min(1e-6), 1))
