"""Moving average batch normalization."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.errors import NormError
from normbench.norms._base import Norm, check_rank
from normbench.options import option

CLIP = 5.0  # the ratio of two root mean squares stays in 1/5 .. 5
UNCLIPPED = 1000  # training forwards before which the ratio is 1


@dataclass(frozen=True)
class MABN(Norm):
    """Moving average batch normalization: divides by a root mean square averaged over batches.

    y = r z * weight + bias, z = x / sqrt(V + eps);  r = sqrt((V + eps) / (running_var + eps)),
    clipped to 1/5 .. 5, without gradient and 1 in the first 1000 training forwards. V: (C,) is the
    average of E[x^2] over the last `window` batches, without gradient; x: (N, C, ...); weight,
    bias: (C,). Backward with g the gradient of r z: dx = (g - z G) / sqrt(V + eps), G the average
    of E[g z] over the last `window` batches. In the first max(window, warmup - 1) training forwards
    V and G are those of the batch alone. Evaluation takes running_var, which follows V, and r = 1.

    Args: window: batches that are averaged. warmup: training forwards that take their own batch
        only. centre: subtract from each filter of the linear layer its mean, with gradient, because
        no mean is taken from x. eps: added to the mean square. momentum: weight of the new value in
        running_var. affine: learn weight and bias.
    Raises: NormError if centre meets a layer whose filters have a single weight.
    Source: Yan, Wan, Zhang, Zhang, Wei & Sun 2020, arXiv 2001.06838. The window of the backward pass
        is written by that pass: each training forward needs its backward before the next one's.
    """

    uses_batch: ClassVar[bool] = True
    running: ClassVar[bool] = True
    parameters: ClassVar[str] = "2 C"
    memory_format: ClassVar[str] = "contiguous"

    window: int = option(16, low=1)
    warmup: int = option(100, low=0)
    centre: bool = True
    eps: float = option(1e-5, low=0)
    momentum: float = option(0.02, low=0, high=1)
    affine: bool = True

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its two windows."""
        return MovingAverageBatchNorm(channels, dims, self)


class MovingAverageBatchNorm(nn.Module):
    """Divides by a root mean square that is averaged over batches, forward and backward."""

    running_var: Tensor
    steps: Tensor
    past_x2: Tensor
    past_gz: Tensor

    def __init__(self, channels: int, dims: int, options: MABN) -> None:
        super().__init__()
        self.dims, self.options = dims, options
        affine = options.affine
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("past_x2", torch.zeros(options.window, channels))
        self.register_buffer("past_gz", torch.zeros(options.window, channels))
