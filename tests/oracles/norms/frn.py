"""Filter response normalization in float64, from Singh & Krishnan 2020, equations 1 to 3."""

import torch

KIND = "features+activation"
OPTIONS = [{}, {"eps": 0.3}, {"learn_eps": True}, {"learn_eps": False}, {"affine": False}]
SHAPES = [
    *[(6, 5), (2, 5), (1, 3), (6, 5, 4), (2, 3, 1), (6, 5, 4, 3), (2, 5, 4, 3), (1, 5, 4, 3)],
    *[(6, 5, 1, 1), (2, 1, 3, 3)],
]
REFUSED = [
    ({"eps": -1e-6}, None, "norm.eps=-1e-06: must be at least 0"),
    ({"learn_eps": 1}, None, "norm.learn_eps=1: is not true or false or null"),
    ({}, (4, 6, 5, 5, 5), r"got shape \(4, 6, 5, 5, 5\)"),
]
EXACT = {"eps": 0.0, "learn_eps": False}
INVARIANT = {"scale", "channel_scale", "sample_scale"}


class Oracle:
    def __init__(self, channels, dims, eps=1e-6, learn_eps=None, affine=True):
        self.eps, self.dims, self.buffers, self.parameters = eps, dims, {}, {}
        if affine:
            self.parameters["norm.weight"] = torch.ones(channels, requires_grad=True)
            self.parameters["norm.bias"] = torch.zeros(channels, requires_grad=True)
        if learn_eps or (learn_eps is None and dims == 0):
            self.parameters["norm.eps_learned"] = torch.tensor(1e-4, requires_grad=True)
        self.parameters["act.tau"] = torch.zeros(channels, requires_grad=True)

    def per_channel(self, name, otherwise):
        value = self.parameters.get(name)
        return otherwise if value is None else value.reshape(-1, *[1] * self.dims)

    def train(self, x):
        places = tuple(range(2, x.dim()))
        nu = x**2 if self.dims == 0 else (x**2).mean(places, keepdim=True)
        e = self.parameters.get("norm.eps_learned", torch.tensor(0.0))
        y = x / torch.sqrt(nu + abs(self.eps) + e.abs())
        y = y * self.per_channel("norm.weight", 1.0) + self.per_channel("norm.bias", 0.0)
        tau = self.per_channel("act.tau", None).expand_as(y)
        return torch.stack([y, tau]).amax(0)

    evaluate = train
