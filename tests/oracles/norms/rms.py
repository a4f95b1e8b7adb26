"""Root mean square normalization in float64, from Zhang & Sennrich 2019, equation 4."""

import torch

KIND = "features"
OPTIONS = [
    {},
    {"over": "channel"},
    {"eps": 0.4},
    {"over": "channel", "eps": 0.4},
    {"affine": False},
]
REFUSED = [
    ({"over": "batch"}, None, "norm.over=batch: .*sample, channel"),
    ({"eps": -1.0}, None, "norm.eps=-1.0: must be at least 0"),
    ({}, (4, 6, 5, 5, 5), r"got shape \(4, 6, 5, 5, 5\)"),
]
INVARIANT = {"scale", "sample_scale"}


class Oracle:
    def __init__(self, channels, dims, over="sample", eps=1e-6, affine=True):
        self.over, self.eps, self.buffers, self.parameters = over, eps, {}, {}
        self.form = (channels, *[1] * dims)
        if affine:
            self.parameters["weight"] = torch.ones(channels, requires_grad=True)

    def train(self, x):
        axes = tuple(range(1, x.dim())) if self.over == "sample" else (1,)
        y = x / (x.square().mean(axes, keepdim=True) + self.eps).sqrt()
        return y * self.parameters["weight"].reshape(self.form) if self.parameters else y

    evaluate = train
