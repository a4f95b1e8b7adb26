"""Cosine normalization in float64, from Luo et al. 2018, equations 4 and 11, patch by patch."""

import torch
from torch import nn

KIND = "linear"
OPTIONS = [
    {},
    {"centred": True},
    {"scale": 5.0},
    {"eps": 4.0},
    {"centred": True, "eps": 4.0, "scale": 0.5},
    {"eps": 0.0},
]
LAYERS = [
    lambda: nn.Linear(7, 5),
    lambda: nn.Linear(4, 3, bias=False),
    lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    lambda: nn.Conv2d(4, 6, (3, 2), dilation=(1, 2), groups=2, bias=False),
    lambda: nn.Conv2d(3, 5, (3, 1), padding="same", dilation=(2, 1)),
    lambda: nn.Conv2d(3, 5, 1, padding=(0, 1)),  # patches of nothing but padding
]
INPUTS = [(6, 7), (1, 4), (2, 4, 5, 6), (3, 4, 4, 5), (2, 3, 5, 4), (1, 3, 2, 1)]


def zero():
    layer = nn.Linear(3, 4)
    layer.weight.data.zero_()
    return layer


def constant():
    layer = nn.Linear(3, 4)
    layer.weight.data.fill_(0.5)
    return layer


REFUSED = [
    ({"eps": 0.0}, zero, "4 of 4 rows of the weight are zero"),
    ({"eps": 0.0, "centred": True}, constant, "4 of 4 rows of the weight are zero"),
    ({"eps": -1.0}, None, "norm.eps=-1.0: must be at least 0"),
    ({"scale": 0.0}, None, "norm.scale=0.0: .* above 0"),
]
INVARIANT = {"scale", "sample_scale", "weight_scale"}


class Oracle:
    def __init__(self, layer, centred=False, scale=1.0, eps=1e-6):
        self.layer, self.centred, self.scale, self.eps = layer, centred, scale, eps
        self.parameters = {"weight": layer.weight.detach().clone().requires_grad_()}
        self.buffers = {}

    def train(self, x):
        if isinstance(self.layer, nn.Linear):
            return self.cosines(x, self.parameters["weight"])
        groups = self.layer.groups
        weights = self.parameters["weight"].chunk(groups)
        maps = [self.map(*each) for each in zip(x.chunk(groups, 1), weights, strict=True)]
        return torch.cat(maps, 1)

    evaluate = train

    def cosines(self, x, w):
        """x: (N, fan-in), w: (out, fan-in)."""
        x, w = self.moved(x), self.moved(w)
        lengths = self.length(x)[:, None] * self.length(w)[None, :]
        return self.scale * (x @ w.T) / torch.where(lengths > 0, lengths, 1)

    def moved(self, rows):
        return rows - rows.sum(1, keepdim=True) / rows.shape[1] if self.centred else rows

    def length(self, rows):
        squares = (rows**2).sum(1)
        return torch.where(squares > self.eps**2, squares, self.eps**2) ** 0.5

    def map(self, x, w):
        """All positions of one group of channels."""
        (kh, kw), (sh, sw), (dh, dw) = (
            self.layer.kernel_size,
            self.layer.stride,
            self.layer.dilation,
        )
        above, below, left, right = self.padding()
        n, c, h, wide = x.shape
        padded = x.new_zeros(n, c, h + above + below, wide + left + right)
        padded[:, :, above : above + h, left : left + wide] = x
        rows = range(0, padded.shape[2] - dh * (kh - 1), sh)
        columns = range(0, padded.shape[3] - dw * (kw - 1), sw)
        spots = []
        for i in rows:
            for j in columns:
                patch = padded[:, :, i : i + dh * (kh - 1) + 1 : dh, j : j + dw * (kw - 1) + 1 : dw]
                spots.append(self.cosines(patch.flatten(1), w.flatten(1)))
        return torch.stack(spots, 2).reshape(n, len(w), len(rows), len(columns))

    def padding(self):
        if self.layer.padding == "same":
            (kh, kw), (dh, dw) = self.layer.kernel_size, self.layer.dilation
            down, across = dh * (kh - 1), dw * (kw - 1)
            return down // 2, down - down // 2, across // 2, across - across // 2
        down, across = self.layer.padding
        return down, down, across, across
