"""Weight normalization in float64, from Salimans & Kingma 2016, equation 2."""

import torch
from torch import nn
from torch.func import functional_call

KIND = "linear"
OPTIONS = [
    *[{}, {"per": "layer"}, {"data_init": False}, {"init_scale": 2.0}],
    {"per": "channel", "data_init": True},
    {"g": "one"},
    {"g": "one", "per": "layer"},
]
LAYERS = [
    lambda: nn.Linear(7, 5),
    lambda: nn.Linear(4, 3, bias=False),
    lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    lambda: nn.Conv2d(4, 6, (3, 2), dilation=(1, 2), groups=2, bias=False),
    lambda: nn.Conv2d(3, 5, 1),
]
INPUTS = [(6, 7), (1, 4), (2, 4, 5, 6), (3, 4, 4, 5), (1, 3, 1, 1)]


def with_zero_row():
    layer = nn.Conv2d(2, 4, 3)
    layer.weight.data[1] = 0
    return layer


def zero():
    layer = nn.Linear(3, 4)
    layer.weight.data.zero_()
    return layer


REFUSED = [
    ({}, with_zero_row, "1 of 4 rows of the weight are zero"),
    ({}, zero, "4 of 4 rows of the weight are zero"),
    ({"per": "layer"}, zero, "WeightNormPerLayer: 1 of 1 rows of the weight are zero"),
    ({"per": "row"}, None, "norm.per=row: is none of channel, layer"),
    ({"per": "layer", "data_init": True}, None, "needs one g per channel"),
    ({"g": "one", "data_init": True}, None, "norm.data_init=true: .*g=one"),
    ({"init_scale": 0.0}, None, ".* above 0"),
    ({}, lambda: nn.Conv2d(2, 4, 3, padding_mode="reflect"), "cannot pad with reflect"),
]
INVARIANT = set()


def norm(rows):
    return (rows**2).sum(1) ** 0.5


class Oracle:
    def __init__(self, layer, per="channel", g="norm", data_init=None, init_scale=1.0):
        self.layer, self.per = layer, per
        v = layer.weight.detach().clone()
        length = norm(v.flatten(1)) if per == "channel" else (v**2).sum() ** 0.5
        g = torch.ones_like(length) if g == "one" else length
        self.parameters = {"v": v.requires_grad_(), "g": g.requires_grad_()}
        if layer.bias is not None:
            self.parameters["bias"] = layer.bias.detach().clone().requires_grad_()
        self.buffers = {}

    def train(self, x):
        v, g = self.parameters["v"], self.parameters["g"]
        rows = v.flatten(1)
        if self.per == "channel":
            rows = torch.stack([g[k] * row / norm(rows)[k] for k, row in enumerate(rows)])
        else:
            rows = g * rows / (v**2).sum() ** 0.5
        values = {"weight": rows.reshape(v.shape)}
        if "bias" in self.parameters:
            values["bias"] = self.parameters["bias"]
        return functional_call(self.layer, values, (x,))

    evaluate = train
