"""What norms with batch statistics share: moments over sets of samples, running statistics."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.norms._base import check_count, check_rank


class BatchOptions(Protocol):
    """The options that a layer with batch statistics reads from its norm."""

    @property
    def eps(self) -> float: ...
    @property
    def momentum(self) -> float | None: ...
    @property
    def affine(self) -> bool: ...
    @property
    def norm_batch(self) -> int | str: ...


class BatchNorm(nn.Module):
    """Batch normalization of (N, C, ...) with running statistics for evaluation."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, dims: int, options: BatchOptions) -> None:
        super().__init__()
        self.dims, self.eps, self.momentum = dims, options.eps, options.momentum
        affine = options.affine
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` and, in training, update the running statistics."""
        check_rank(self, x, self.dims)
        mean, var = self.running_mean, self.running_var
        if not self.training:
            return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        count = x.shape[0] * math.prod(x.shape[2:])
        check_count(self, x.shape, count, "per channel")
        if self.momentum is None:
            mean, var = torch.zeros_like(mean), torch.ones_like(var)
        momentum = 1.0 if self.momentum is None else self.momentum
        y = F.batch_norm(x, mean, var, self.weight, self.bias, True, momentum, self.eps)
        with torch.no_grad():
            if self.momentum is None:
                new = 1 / (self.num_batches_tracked + 1)
                self.running_mean.lerp_(mean, new.to(mean.dtype))
                self.running_var.lerp_(var, new.to(var.dtype))
            self.num_batches_tracked.add_(1)
        return y
