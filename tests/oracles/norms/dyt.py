"""Dynamic tanh in float64, from Zhu et al. 2025, equation 1."""

import torch

KIND = "features"
OPTIONS = [{}, {"alpha": 1.5}, {"alpha": -0.2}, {"affine": False}]
REFUSED = [
    ({"alpha": "one"}, None, "norm.alpha=one: is not a finite number"),
    ({}, (4, 6, 5, 5, 5), r"got shape \(4, 6, 5, 5, 5\)"),
]
INVARIANT = set()


class Oracle:
    def __init__(self, channels, dims, alpha=0.5, affine=True):
        self.form, self.buffers = (channels, *[1] * dims), {}
        self.parameters = {"alpha": torch.tensor(alpha, requires_grad=True)}
        if affine:
            self.parameters["weight"] = torch.ones(channels, requires_grad=True)
            self.parameters["bias"] = torch.zeros(channels, requires_grad=True)

    def train(self, x):
        grown = torch.exp(2 * self.parameters["alpha"] * x)
        y = 1 - 2 / (grown + 1)
        if "weight" not in self.parameters:
            return y
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        return y * weight.reshape(self.form) + bias.reshape(self.form)

    evaluate = train
