"""Group normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from normbench.norms._base import Norm, check_count, check_rank, divisor, groups_of
from normbench.norms._sums import group_norm
from normbench.parts.options import option


@dataclass(frozen=True)
class GN(Norm):
    """Group normalization: each sample by the mean and variance of groups of its channels.

    y = (x - mean) / sqrt(var + eps) * weight + bias;  x: (N, C, ...); mean, var: (N, groups) over
    C/groups contiguous channels and all positions, var biased; weight, bias: (C,). The same in
    training and evaluation.

    Args: groups: number of groups, a divisor of C; null is the divisor nearest to 8 that leaves
        two channels a group. group_size: channels of a group, a divisor of C, in place of groups.
        eps: added to the variance. affine: learn weight and bias.
    Raises: NormError if groups or group_size does not divide C, if both are given, or if a group
        has a single element.
    Limits: groups have to divide the channels; only the common shift of a group is removed, and no
        noise of a batch regularizes. Where the mean is large, float32 is off by up to 5e-7 |mean| /
        deviation.
    Source: Wu & He 2018, arXiv 1803.08494. Its 32 groups do not divide the channels of small nets.
    """

    aliases: ClassVar[tuple[str, ...]] = ("group",)
    parameters: ClassVar[str] = "2 C"
    memory_format: ClassVar[str] = "contiguous"

    groups: int | None = option(None, low=1)
    group_size: int | None = option(None, low=1)
    eps: float = option(1e-5, low=0)
    affine: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups is not None and self.group_size is not None:
            why = f"norm.groups={self.groups} says it too"
            raise self.error("group_size", self.group_size, why, None)

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its groups resolved for `channels`."""
        groups = groups_of(self.groups, channels)
        if self.group_size is not None:
            groups = channels // divisor(self.group_size, channels, "group_size")
        return GroupNorm(groups, channels, dims, self.eps, self.affine)


class GroupNorm(nn.GroupNorm):
    """torch's group norm, with its ranks and degenerate groups checked."""

    def __init__(self, groups: int, channels: int, dims: int, eps: float, affine: bool) -> None:
        super().__init__(groups, channels, eps, affine)
        self.dims = dims
        if dims == 0:
            check_count(self, (1, channels), channels // groups, "per group")

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` of shape (N, C, ...)."""
        check_rank(self, x, self.dims)
        check_count(self, x.shape, x[0].numel() // self.num_groups, "per group")
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)
