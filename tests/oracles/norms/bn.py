"""Batch normalization in float64, from Ioffe & Szegedy 2015, algorithms 1 and 2."""

import math

import torch

KIND = "features"
OPTIONS = [
    {},
    {"eps": 0.3, "momentum": 0.7},
    {"momentum": None},
    {"momentum": 0.0},
    {"affine": False, "momentum": 1},
    {"norm_batch": "global"},
    {"norm_batch": 2},
    {"norm_batch": 4, "eps": 0.2, "momentum": 0.4},
    {"norm_batch": 3, "momentum": None, "affine": False},
    {"norm_batch": 6},
    {"affine": "weight", "start": "first"},
    {"affine": "bias", "start": "first", "norm_batch": 4, "momentum": 0.3},
    {"stop_gradient": True, "norm_batch": 4},
]
SHAPES = [(6, 5, 4, 3), (6, 5, 4), (6, 5), (2, 5), (2, 3, 7), (2, 5, 4, 3), (6, 5, 1, 1)]
CASES = [
    *[({}, shape) for shape in SHAPES],
    *[(options, shape) for options in OPTIONS[1:] for shape in SHAPES[:3]],
    *[(options, (1, 5, 4, 3)) for options in OPTIONS],  # a batch of one has positions to average
    *[({"norm_batch": size}, (7, 3, 2, 2)) for size in (1, 3, 5, 6, 7, 8)],
    ({"norm_batch": 3}, (8, 5)),
]
REFUSED = [
    ({}, (1, 5), r"norm=BatchNorm: input \(1, 5\) leaves 1 value per channel"),
    ({}, (1, 5, 1), r"input \(1, 5, 1\) leaves 1 value per channel"),
    ({}, (1, 5, 1, 1), r"input \(1, 5, 1, 1\) leaves 1 value per channel"),
    ({}, (0, 5), r"input \(0, 5\) leaves 0 values per channel"),
    ({}, (3, 5, 0, 2), r"input \(3, 5, 0, 2\) leaves 0 values per channel"),
    ({"norm_batch": "global"}, (1, 5), "leaves 1 value per channel"),
    ({"norm_batch": 1}, (4, 5), r"input \(4, 5\) leaves 1 value per channel and chunk"),
    (
        {"norm_batch": 3},
        (7, 5),
        r"1 value per channel and chunk [^\n]*\n  try: norm_batch=7$",
    ),  # 3, 3, 1
    ({"norm_batch": 2}, (0, 5), "leaves 0 values per channel"),
    ({"norm_batch": 0}, None, "norm.norm_batch=0: "),
    ({"norm_batch": "all"}, None, "norm.norm_batch=all: .*worker"),
    ({"norm_batch": 2.0}, None, "norm.norm_batch=2.0: .*worker"),
    ({"momentum": 1.5}, None, r"norm.momentum=1.5: "),
    ({"momentum": -0.1}, None, r"norm.momentum=-0.1: "),
    ({"eps": -1e-5}, None, "norm.eps=-1e-05: "),
    ({"affine": "gamma"}, None, "norm.affine=gamma: "),
]
INVARIANT = {"shift", "scale", "channel_shift", "channel_scale"}


class Oracle:
    def __init__(
        self,
        channels,
        dims,
        eps=1e-5,
        momentum=0.1,
        affine=True,
        norm_batch="worker",
        start="standard",
        stop_gradient=False,
    ):
        self.eps, self.momentum, self.norm_batch = eps, momentum, norm_batch
        self.start, self.stop_gradient = start, stop_gradient
        self.parameters, self.buffers = {}, {}
        if affine in (True, "weight"):
            self.parameters["weight"] = torch.ones(channels, requires_grad=True)
        if affine in (True, "bias"):
            self.parameters["bias"] = torch.zeros(channels, requires_grad=True)
        self.buffers["running_mean"] = torch.zeros(channels)
        self.buffers["running_var"] = torch.ones(channels)
        self.buffers["num_batches_tracked"] = torch.tensor(0)

    def train(self, x):
        y, found = torch.empty_like(x), []
        for rows in chunks(len(x), self.norm_batch):
            for c in range(x.shape[1]):
                mean, var, _ = moments(x[rows, c].detach() if self.stop_gradient else x[rows, c])
                y[rows, c] = (x[rows, c] - mean) / torch.sqrt(var + self.eps)
            found.append(x.detach()[rows])
        self.follow(found)
        return self.affine(y)

    def follow(self, found):
        t = int(self.buffers["num_batches_tracked"])
        for j, part in enumerate(found):
            weight = (self.momentum or 0) / len(found)
            if self.momentum is None or (
                self.start == "first" and t == 0
            ):  # all chunks seen so far count alike
                weight = 1 / (t * len(found) + j + 1)
            for c in range(part.shape[1]):
                mean, var, count = moments(part[:, c])
                for name, new in (("mean", mean), ("var", var * count / (count - 1))):
                    value = self.buffers[f"running_{name}"]
                    value[c] = (1 - weight) * value[c] + weight * new
        self.buffers["num_batches_tracked"] += 1

    def affine(self, y):
        if "weight" in self.parameters:
            y = y * like(self.parameters["weight"], y)
        return y + like(self.parameters["bias"], y) if "bias" in self.parameters else y

    def evaluate(self, x):
        mean, var = self.buffers["running_mean"], self.buffers["running_var"]
        return self.affine((x - like(mean, x)) / torch.sqrt(like(var, x) + self.eps))


def chunks(rows, norm_batch):
    """The slices of rows that share statistics."""
    if not isinstance(norm_batch, int):
        return [slice(0, rows)]
    size = math.ceil(rows / math.ceil(rows / norm_batch))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def moments(values):
    """Mean, biased variance and number of all values."""
    mean = values.sum() / values.numel()
    return mean, ((values - mean) ** 2).sum() / values.numel(), values.numel()


def like(values, x):
    return values.reshape(1, -1, *[1] * (x.dim() - 2))
