"""The base of norms of weights: a layer that takes the place of a Linear or Conv2d."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.errors import NormError


class Linear(nn.Module):
    """Applies the linear map of a Linear or Conv2d with a weight that a subclass computes.

    Stride, padding, dilation and groups are those of the layer.

    Args: layer: what it takes the place of; only its shape is kept, a subclass keeps the weight.
    Raises: NormError for any other layer, and for padding with anything but zeros.
    """

    scaled_by: ClassVar[str | None] = None  # multiples of this parameter are those of the output

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            kind = type(layer).__name__
            raise self._refusal(f"cannot take the place of {kind}", "a Linear or Conv2d layer")
        self.shape = tuple(layer.weight.shape)
        self.fan_in = math.prod(self.shape[1:])
        self.groups: int = getattr(layer, "groups", 1)
        self.maps: int = getattr(layer, "maps", 1)
        self.how: dict[str, Any] = {}
        if isinstance(layer, nn.Conv2d):
            if layer.padding_mode != "zeros":
                raise self._refusal(f"cannot pad with {layer.padding_mode}", "padding_mode=zeros")
            for name in ("stride", "padding", "dilation", "groups"):
                self.how[name] = getattr(layer, name)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map `x` (N, in) or (N, C, H, W) by `weight` (out, in, ...)."""
        return F.conv2d(x, weight, bias, **self.how) if self.how else F.linear(x, weight, bias)

    def keep_bias(self, layer: nn.Module) -> None:
        """Take over the bias of the layer, or its absence."""
        self.register_parameter("bias", dict(layer.named_parameters()).get("bias"))

    def extra_repr(self) -> str:
        """Show the shape of the weight and what differs from a plain convolution."""
        plain = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
        how = [f"{name}={value}" for name, value in self.how.items() if value != plain[name]]
        return ", ".join([str(self.shape), *how])

    def _refusal(self, why: str, fix: str) -> NormError:
        return NormError("", type(self).__name__, why, fix)


def column(vector: Tensor, like: Tensor) -> Tensor:
    """View a vector (out,) so that it multiplies the rows of `like` (out, in, ...)."""
    return vector.reshape(-1, *[1] * (like.dim() - 1))


def row_norms(weight: Tensor) -> Tensor:
    """Return the Euclidean norm of each row (out,) of `weight` (out, in, ...)."""
    norms: Tensor = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())))
    return norms


def check_rows(layer: nn.Module, norms: Tensor) -> None:
    """Raise NormError if one of the norms of a layer's weight is 0; `meta` tensors have none."""
    if norms.is_meta or norms.all():
        return
    name = type(layer).__name__
    count = f"{int((norms == 0).sum())} of {norms.numel()}"
    raise NormError("", name, f"{count} rows of the weight are zero", "init=kaiming_normal")


class Standardized(Linear):
    """A linear layer whose filters are standardized before use; keeps the raw weight and bias.

    Raises: NormError for a fan-in of 1, whose filters would all be zero.
    """

    bias: Tensor | None

    def __init__(self, layer: nn.Module, eps: float) -> None:
        super().__init__(layer)
        if self.fan_in < 2:
            raise self._refusal(
                f"weight {self.shape} leaves 1 value per filter to take statistics of, "
                "at least 2 are needed",
                "a layer with more inputs or a larger kernel",
            )
        self.weight = layer.get_parameter("weight")
        self.keep_bias(layer)
        self.eps = eps

    def standardized(self) -> Tensor:
        """Return (w - mean) / sqrt(var + eps) per filter, var biased."""
        return F.layer_norm(self.weight, self.shape[1:], eps=self.eps)
