"""Cross-iteration batch normalization in float64, from Yao et al. 2020, equations 3 to 12."""

import torch
from torch import nn
from torch.func import functional_call

KIND = "linear"
RUN = {"burnin": 0, "burnin_share": None}
OPTIONS = [
    {},
    {"window": 1, "eps": 0.3},
    {"window": 2, "momentum": 0.7},
    {"window": 3, "burnin": 2, "affine": False},
    {"window": 6, "momentum": 1},
]
LAYERS = [
    lambda: nn.Linear(7, 5),
    lambda: nn.Conv2d(4, 6, (3, 2), dilation=(1, 2), groups=2, bias=False),
    lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    lambda: nn.Linear(3, 1, bias=False),
    lambda: nn.Conv2d(3, 6, 3, groups=3, padding="same"),
    lambda: nn.Conv2d(3, 5, 1, padding="valid"),
]
INPUTS = [(6, 7), (3, 4, 5, 4), (2, 4, 5, 6), (5, 3), (1, 3, 4, 3), (4, 3, 1, 1)]
PADDED = (2, 4)  # not with the first options: padding zeros do not shift with the input
CASES = [(options, k) for options in OPTIONS for k in range(6) if options or k not in PADDED]
REFUSED = [
    ({}, (LAYERS[0], (1, 7)), r"input \(1, 7\) leaves 1 value per channel"),
    ({}, (LAYERS[5], (1, 3, 1, 1)), r"input \(1, 3, 1, 1\) leaves 1 value per channel"),
    ({}, (LAYERS[0], (0, 7)), r"input \(0, 7\) leaves 0 values per channel"),
    ({}, (LAYERS[0], (2, 3, 7)), r"got shape \(2, 3, 7\), needs \(N, C\)"),
    ({}, (LAYERS[5], (3, 4, 4)), r"got shape \(3, 4, 4\)"),
    ({}, lambda: nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), "cannot pad with reflect"),
    ({}, lambda: nn.Conv2d(3, 5, 2, padding="same"), r"cannot pad a kernel \(2, 2\)"),
    ({"burnin": 3, "burnin_share": 0.1}, None, "norm.burnin=3: .* both set"),
    ({"burnin": None}, None, "norm.burnin=null: .* both null"),
    (
        {"burnin": None, "burnin_share": 0.1},
        LAYERS[0],
        "norm.burnin_share=0.1: .* there is no run here",
    ),
    ({"burnin_share": 1.1}, None, "norm.burnin_share=1.1: "),
    ({"window": 0}, None, "norm.window=0: "),
    ({"eps": -1e-5}, None, "norm.eps=-1e-05: "),
    ({"norm_batch": "worker"}, None, "cbn has no option of this name"),
]
INVARIANT = {"shift", "scale", "channel_shift", "weight_scale"}
GRADCHECK = False


class Oracle:
    def __init__(
        self, layer, window=4, burnin=0, eps=1e-5, momentum=0.1, affine=True, burnin_share=None
    ):
        self.window, self.burnin, self.eps, self.momentum = window, burnin, eps, momentum
        self.layer = layer
        layer.bias = None
        weight = layer.weight.detach().clone()
        channels = len(weight)
        self.parameters = {"weight": weight.requires_grad_()}
        if affine:
            self.parameters["norm.weight"] = torch.ones(channels, requires_grad=True)
            self.parameters["norm.bias"] = torch.zeros(channels, requires_grad=True)
        self.stored = []
        self.steps = 0
        self.running_mean, self.running_var = torch.zeros(channels), torch.ones(channels)

    @property
    def buffers(self):
        weight = self.parameters["weight"]
        filled = len(self.stored)
        buffers = {
            "norm.running_mean": self.running_mean,
            "norm.running_var": self.running_var,
            "norm.steps": torch.tensor(self.steps),
            "filled": torch.tensor(filled),
        }
        for k, name in enumerate(("mean", "second", "dmean", "dsecond", "past")):
            shape = weight.shape[: 1 if k < 2 else None]
            entries = [entry[k] for entry in self.stored]
            empty = [weight.new_zeros(shape)] * (self.window - 1 - filled)
            rows = [*entries, *empty]
            buffers[f"window_{name}"] = torch.stack(rows) if rows else weight.new_zeros(0, *shape)
        return buffers

    def train(self, x):
        weight = self.parameters["weight"]
        z = self.linear(x)
        mean, second = per_channel(z), per_channel(z**2)
        means, seconds = [mean], [second]
        for mean_t, second_t, dmean, dsecond, past in self.stored:
            change = weight.detach() - past
            moved = mean_t + (dmean * change).flatten(1).sum(1)
            means.append(moved)
            moved_second = second_t + (dsecond * change).flatten(1).sum(1)
            seconds.append(torch.maximum(moved_second, moved**2))
        joined = sum(means) / len(means)
        var = (sum(seconds) / len(seconds) - joined**2).clip(min=0)
        self.follow(mean.detach(), second.detach(), z.numel() // z.shape[1])
        if self.steps >= self.burnin:
            slopes = [
                torch.autograd.grad(value.sum(), weight, retain_graph=True)[0]
                for value in (mean, second)
            ]
            entry = (mean.detach(), second.detach(), *slopes, weight.detach().clone())
            self.stored = [entry, *self.stored][: self.window - 1]
        self.steps += 1
        return self.normed(z, joined, var)

    def evaluate(self, x):
        return self.normed(self.linear(x), self.running_mean, self.running_var)

    def linear(self, x):
        return functional_call(self.layer, {"weight": self.parameters["weight"]}, (x,))

    def follow(self, mean, second, count):
        var = (second - mean**2) * count / (count - 1)
        self.running_mean = (1 - self.momentum) * self.running_mean + self.momentum * mean
        self.running_var = (1 - self.momentum) * self.running_var + self.momentum * var

    def normed(self, z, mean, var):
        form = (-1, *[1] * (z.dim() - 2))
        y = (z - mean.reshape(form)) / (var.reshape(form) + self.eps) ** 0.5
        if "norm.weight" in self.parameters:
            y = y * self.parameters["norm.weight"].reshape(form)
            y = y + self.parameters["norm.bias"].reshape(form)
        return y


def per_channel(z):
    return z.transpose(0, 1).flatten(1).sum(1) * z.shape[1] / z.numel()
