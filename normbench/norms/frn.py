"""Filter response normalization with its threshold unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench.errors import Mistake
from normbench.norms._activations import TLU
from normbench.norms._base import Norm, check_rank
from normbench.norms._sums import at_least_float32
from normbench.norms._uncentred import RootMeanSquare
from normbench.parts.options import option


@dataclass(frozen=True)
class FRN(Norm):
    """Filter response normalization: each channel of each sample by its root mean square.

    y = x / sqrt(nu + eps + |eps_learned|) * weight + bias, then z = max(y, tau);  x: (N, C, ...);
    nu = E[x^2]: (N, C) over positions, uncentred; weight, bias, tau: (C,); eps_learned: one number
    per layer, starts at 1e-4. tau, which starts at 0, is the activation unless the run names one.

    Args: eps: added to the mean square. learn_eps: learn eps_learned; null is yes for dense layers
        only. affine: learn weight and bias.
    Limits: maps of one position and dense layers keep little more than signs; wants a warm-up of
        the learning rate.
    Source: Singh & Krishnan 2020, arXiv 1911.09737. With a single position nu is x^2, so that y is
        almost sign(x) * weight: dense layers learn slowly.
    """

    brings: ClassVar[str] = "tlu"
    places: ClassVar[tuple[str, ...]] = ("pre", "preact")
    parameters: ClassVar[str] = "3 C"
    memory_format: ClassVar[str] = "contiguous"

    eps: float = option(1e-6, low=0)
    learn_eps: bool | None = None
    affine: bool = True

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer without the threshold, which stands in the activation's place."""
        return FilterResponse(channels, dims, self)

    def activation(self, act: nn.Module | None, channels: int, dims: int) -> nn.Module:
        """Return the activation that the run names, else the threshold unit."""
        return act or TLU(channels, dims)

    def warnings(self, model: nn.Module, beside: Sequence[Norm] = ()) -> list[Mistake]:
        """Return a warning if there are dense layers before it."""
        kind, why = FilterResponse, "after a dense layer it divides each value by its own size"
        dense = any(isinstance(module, kind) and module.dims == 0 for module in model.modules())
        return [Mistake("norm=frn", f"{why} and learns slowly", "norm=ln")] if dense else []


class FilterResponse(nn.Module):
    """Divides each channel of each sample by its root mean square over positions."""

    eps_learned: Tensor | None

    def __init__(self, channels: int, dims: int, options: FRN) -> None:
        super().__init__()
        self.dims, self.eps = dims, options.eps
        learned = dims == 0 if options.learn_eps is None else options.learn_eps
        affine = options.affine
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)
        start = nn.Parameter(torch.tensor(1e-4)) if learned else None
        self.register_parameter("eps_learned", start)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` of shape (N, C, ...)."""
        check_rank(self, x, self.dims)
        eps = self.eps if self.eps_learned is None else self.eps + self.eps_learned.abs()
        y: Tensor = RootMeanSquare.apply(
            at_least_float32(x), self.weight, self.bias, eps, x.shape[1]
        )[0]
        return y.to(x.dtype)
