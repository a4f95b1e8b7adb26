"""Weight standardization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from normbench.errors import Mistake
from normbench.norms._base import Norm
from normbench.norms._weights import Standardized
from normbench.parts.options import option


@dataclass(frozen=True)
class WS(Norm):
    """Weight standardization: each filter gets mean 0 and variance 1 over its fan-in.

    y = <(w - mean) / sqrt(var + eps), x> + bias;  w: (out, in, ...); mean, var: (out,) over all
    axes but the first, var biased. The same in training and evaluation. Activations grow by
    sqrt(fan_in) per layer: meant for `ws+gn` or `ws+bn`, a residual net diverges without.

    Args: eps: added to the variance.
    Raises: NormError for a fan-in of 1.
    Limits: alone it sets no scale of features: put a norm behind it.
    Source: Qiao et al. 2019, arXiv 1903.10520, eqs. 1 to 3.
    """

    aliases: ClassVar[tuple[str, ...]] = ("weight-standardization",)

    eps: float = option(1e-6, low=0)

    def linear(self, layer: nn.Module) -> nn.Module:
        """Return the layer with its weight standardized."""
        return WeightStandardization(layer, self.eps)

    def warnings(self, model: nn.Module, beside: Sequence[Norm] = ()) -> list[Mistake]:
        """Return a warning if it is not chained with a norm of features."""
        if any(member.norms_features() for member in beside):
            return []
        why = "no norm follows it: activations grow with every layer, a residual net diverges"
        return [Mistake("norm=ws", why, "norm=ws+gn")]


class WeightStandardization(Standardized):
    """A linear layer with standardized filters."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` of shape (N, in) or (N, C, H, W)."""
        return self.linear(x, self.standardized(), self.bias)
