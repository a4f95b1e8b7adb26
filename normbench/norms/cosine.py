"""Cosine normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.norms._base import Norm
from normbench.norms._weights import Linear, check_rows, column, row_norms
from normbench.parts.options import option


@dataclass(frozen=True)
class Cosine(Norm):
    """Cosine normalization: the cosine of the angle between weight vector and input.

    y = scale * <w, x> / (max(|w|, eps) * max(|x|, eps));  w: (out, in, ...); x: an input row, or
    each patch under a filter, padding zeros included. With centred, w and x are first reduced by
    their own means (Pearson's correlation). In -scale .. scale, no bias; 0, with gradient 0, where
    x is zero (centred: constant). The same in training and evaluation.

    Args: centred: correlation instead of cosine. scale: largest output. eps: least norm.
    Raises: NormError for eps = 0 if a row of the (centred) weight is zero.
    Limits: outputs are bounded by scale, so signals shrink with depth where scale is small; every
        input patch needs its length.
    Source: Luo et al. 2018, arXiv 1702.05870, eqs. 4 and 11. The scale is ours.
    """

    aliases: ClassVar[tuple[str, ...]] = ("cn",)
    bias: ClassVar[bool] = False

    centred: bool = False
    scale: float = option(1.0, above=0)
    eps: float = option(1e-6, low=0)

    def linear(self, layer: nn.Module) -> nn.Module:
        """Return the layer with the cosine in place of the inner product."""
        return CosineLinear(layer, self)


class CosineLinear(Linear):
    """A linear layer that takes cosines; keeps the raw weight."""

    def __init__(self, layer: nn.Module, options: Cosine) -> None:
        super().__init__(layer)
        self.options = options
        self.weight = layer.get_parameter("weight")
        if not options.eps:
            check_rows(self, row_norms(self.rows().detach()))
        self.pads = _pads(layer) if isinstance(layer, nn.Conv2d) else []
        if options.centred and self.how:  # padded by hand: the zeros take part in the means
            self.how["padding"] = 0

    def rows(self) -> Tensor:
        """Return the weight, each filter reduced by its mean if centred."""
        if not self.options.centred:
            return self.weight
        axes = tuple(range(1, self.weight.dim()))
        return self.weight - self.weight.mean(axes, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` of shape (N, in) or (N, C, H, W)."""
        if self.options.centred:
            # Patches are centred whatever is subtracted from the whole sample: its mean here, so
            # that the sums of squares below lose no digits to a large mean.
            x = F.pad(x, self.pads) if any(self.pads) else x
            x = x - x.detach().mean(tuple(range(1, x.dim())), keepdim=True)
        rows = self.rows()
        length = row_norms(rows).clamp_min(self.options.eps)
        dot = self.linear(x, rows * column(self.options.scale / length, rows))
        return dot * self.inverse_norms(x).to(dot.dtype)

    def inverse_norms(self, x: Tensor) -> Tensor:
        """Return 1/max(|x|, eps) per row, or per patch and output channel; 0 for zero inputs."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        energy = square = self.sums(x.square())
        noise = 0.0
        if self.options.centred:
            square = energy - self.sums(x).square() / self.fan_in
            noise = 64 * torch.finfo(x.dtype).eps  # what rounding leaves of a constant patch
        used = square > noise * energy
        # Clamped before the root, and 1 where unused: the root of 0 has no gradient.
        safe = torch.where(used, square.clamp_min(self.options.eps**2), 1)
        inverse = torch.where(used, safe.rsqrt(), 0)
        groups = inverse.shape[1]
        return inverse if groups == 1 else inverse.repeat_interleave(self.shape[0] // groups, 1)

    def sums(self, x: Tensor) -> Tensor:
        """Sum `x` over what each output sees: (N, 1), or (N, groups, H, W) of the output map."""
        if not self.how:
            return x.sum(1, keepdim=True)
        n, _, height, width = x.shape
        sums = x.reshape(n, self.how["groups"], -1, height, width).sum(2)
        if not self.options.centred and any(self.pads):
            sums = F.pad(sums, self.pads)
        # Not by a convolution: on a GPU it may round to ten bits, and may leave in a patch of
        # zeros something of its neighbours.
        for axis in (2, 3):
            kernel, dilation = self.shape[axis], self.how["dilation"][axis - 2]
            span = dilation * (kernel - 1) + 1
            windows = sums.unfold(axis, span, self.how["stride"][axis - 2])
            sums = windows[..., ::dilation].sum(-1)
        return sums


def _pads(layer: nn.Conv2d) -> list[int]:
    """Return the zeros that a convolution adds left, right, above and below."""
    if isinstance(layer.padding, str):
        same = layer.padding == "same"
        total = [
            same * dilation * (kernel - 1)
            for kernel, dilation in zip(layer.kernel_size, layer.dilation, strict=True)
        ]
        return [total[1] // 2, -(-total[1] // 2), total[0] // 2, -(-total[0] // 2)]
    above, left = layer.padding
    return [left, left, above, above]
