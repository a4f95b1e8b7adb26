"""Iterative normalization."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.norms._whitening import Whitening, WhiteningStatistics
from normbench.parts.options import option


@dataclass(frozen=True)
class IterNorm(WhiteningStatistics):
    """Iterative normalization: groups of channels whitened approximately by Newton steps.

    y = P (x - mean) * weight + bias;  S = E[z z^T] + eps I, z = x - mean;  P_0 = I,
    P_k+1 = 1.5 P_k - 0.5 P_k^3 S / trace(S), P = P_steps / sqrt(trace(S));  x: (N, C, ...);
    z: (G, d, m), G groups of d = C/G contiguous channels, m samples and positions; P, S: (G, d, d);
    weight, bias: (C,). Evaluation takes running_mean and running_proj, which follow mean and P.
    Directions of small variance are stretched less than by full whitening. The cost grows with
    d^3: at most 64 channels a group are sensible.

    Args: groups: number of groups, a divisor of C. steps: Newton steps; many are `dbn`. eps: added
        to the diagonal of the covariance. momentum: weight of the new value in the running
        statistics, per optimizer step, or per micro-batch with momentum_per=forward. affine: learn
        weight and bias.
    Raises: NormError if groups does not divide C; in training if a channel has a single value.
    Limits: exact only where no eigenvalue of S is tiny against its trace; more steps come closer
        and cost more. Where the mean is large, float32 is off by up to 5e-7 |mean| / deviation.
    Source: Huang, Zhou, Zhu, Liu & Shao 2019, arXiv 1904.03441.
    """

    steps: int = option(5, low=1)

    def layer(self, channels: int, dims: int) -> nn.Module:
        """Return the layer with its groups and running statistics."""
        return IterativeNorm(channels, dims, self)


class IterativeNorm(Whitening):
    """Whitening by Newton's iteration for the inverse root of the covariance."""

    def __init__(self, channels: int, dims: int, options: IterNorm) -> None:
        super().__init__(channels, dims, options)
        self.iterations = options.steps

    def projection(self, cov: Tensor) -> Tensor:
        """Return the approximation of cov^(-1/2) after the given number of steps."""
        trace = cov.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        eye = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
        # P^2 S / trace(S) is carried along as `left`: with S itself, rounding errors grow from step
        # to step as soon as the largest eigenvalue is more than nine times the smallest
        left = cov / trace
        proj = factor = 1.5 * eye - 0.5 * left
        for _ in range(self.iterations - 1):
            left = factor @ factor @ left
            factor = 1.5 * eye - 0.5 * left
            proj = proj @ factor
        return proj / trace.sqrt()
