"""Positional normalization in float64, from Li et al. 2019, equations 1 and 2."""

import torch

KIND = "features"
OPTIONS = [{}, {"eps": 0.4}]
REFUSED = [
    ({}, (4, 1, 3, 3), "1 value per position"),
    ({"eps": -1.0}, None, "norm.eps=-1.0: must be at least 0"),
    ({"affine": True}, None, "pono has no option of this name"),
]
INVARIANT = {"shift", "scale", "sample_shift", "sample_scale"}


class Oracle:
    def __init__(self, channels, dims, eps=1e-5):
        self.eps, self.parameters, self.buffers = eps, {}, {}

    def train(self, x):
        count = x.shape[1]
        mean = sum(x[:, c] for c in range(count)) / count
        var = sum((x[:, c] - mean) ** 2 for c in range(count)) / (count - 1)
        deviation = torch.sqrt(var + self.eps)
        return torch.stack([(x[:, c] - mean) / deviation for c in range(count)], dim=1)

    evaluate = train
