"""Batch renormalization in float64, from Ioffe 2017, algorithm 1 and section 4."""

import torch
from oracles.norms.bn import chunks, like, moments

KIND = "features"
RUN = {
    "start": 5000,
    "start_share": None,
    "rmax_end": 40000,
    "rmax_end_share": None,
    "dmax_end": 25000,
    "dmax_end_share": None,
}
OPTIONS = [
    {},
    {"start": 0, "rmax_end": 0, "dmax_end": 0, "rmax": 1.2, "dmax": 0.05, "eps": 0.1},
    {"start": 0, "rmax_end": 0, "dmax_end": 0, "rmax": 1.01, "dmax": 1e9, "momentum": 0.3},
    {"start": 1, "rmax_end": 6, "dmax_end": 5, "dmax": 0.1, "momentum": 0.2},
    {"start": 2, "rmax_end": 1, "dmax_end": 2, "rmax": 1.05, "affine": False},
    {"start": 1, "rmax_end": 4, "dmax_end": 8, "dmax": 0.2, "norm_batch": "global"},
    {"start": 1, "rmax_end": 8, "dmax_end": 3, "rmax": 1.1, "norm_batch": 2, "momentum": 0.5},
    {"start": 0, "rmax_end": 0, "dmax_end": 0, "dmax": 0.1, "norm_batch": 4, "momentum": 0.9},
    {"momentum": 0.0, "rmax": 1.0, "dmax": 0.0},
    # sqrt(eps) is above the running deviation that it bounds from below
    {"start": 0, "rmax_end": 0, "dmax_end": 0, "eps": 4.0, "dmax": 0.05},
]
SHAPES = [(6, 5, 4, 3), (6, 5, 4), (6, 5), (2, 5), (2, 3, 7), (2, 5, 4, 3), (6, 5, 1, 1)]
CASES = [
    *[({}, shape) for shape in SHAPES],
    *[(options, shape) for options in OPTIONS[1:] for shape in SHAPES[:3]],
    *[(options, (1, 5, 4, 3)) for options in OPTIONS],
    *[(OPTIONS[7] | {"norm_batch": size}, (7, 3, 2, 2)) for size in (3, 5)],
]
REFUSED = [
    ({}, (1, 5), r"norm=BatchRenorm: input \(1, 5\) leaves 1 value per channel"),
    ({}, (1, 5, 1, 1), r"input \(1, 5, 1, 1\) leaves 1 value per channel"),
    ({}, (0, 5), "leaves 0 values per channel"),
    ({"norm_batch": 1}, (4, 5), "leaves 1 value per channel and chunk"),
    (
        {"start": None},
        None,
        r"norm.start=.*: start .* both null, .*\n  try: norm.start=5000 norm.st",
    ),
    ({"start_share": 0.05}, None, "norm.start=5000: start and start_share are both set"),
    ({"rmax_end_share": 0.4}, None, "norm.rmax_end=40000: .* both set"),
    (
        {"rmax_end": None},
        None,
        r"norm.rmax_end=.* both null, .*\n  try: norm.rmax_end=40000 norm.r",
    ),
    (
        {"dmax_end": None},
        None,
        r"norm.dmax_end=.* both null, .*\n  try: norm.dmax_end=25000 norm.d",
    ),
    (
        {"start": None, "start_share": 0.05},
        (4, 5),
        "norm.start_share=0.05: is a share of a run's training forwards",
    ),
    ({"start": None, "start_share": 1.5}, None, "norm.start_share=1.5: "),
    ({"start": -1}, None, "norm.start=-1: "),
    ({"rmax": 0.5}, None, "norm.rmax=0.5: "),
    ({"dmax": -1.0}, None, "norm.dmax=-1.0: "),
    ({"momentum": None}, None, "norm.momentum=.*: is not "),
    ({"momentum": 1.5}, None, "norm.momentum=1.5: "),
    ({"eps": -1e-5}, None, "norm.eps=-1e-05: "),
]
INVARIANT = {"shift", "scale", "channel_shift", "channel_scale"}  # before its start, as here


class Oracle:
    def __init__(self, channels, dims, **options):
        defaults = {"eps": 1e-5, "momentum": 0.01, "rmax": 3, "dmax": 5, "norm_batch": "worker"}
        schedule = {"start": 5000, "rmax_end": 40000, "dmax_end": 25000}
        self.o = defaults | schedule | options
        self.parameters = {}
        if self.o.get("affine", True):
            self.parameters["weight"] = torch.ones(channels, requires_grad=True)
            self.parameters["bias"] = torch.zeros(channels, requires_grad=True)
        self.buffers = {
            "running_mean": torch.zeros(channels),
            "running_std": torch.ones(channels),
            "steps": torch.tensor(0),
        }

    def limits(self):
        t, start = int(self.buffers["steps"]), self.o["start"]
        rmax, dmax = 1.0, 0.0
        if t >= start:
            rmax, dmax = self.o["rmax"], self.o["dmax"]
            if t < self.o["rmax_end"]:
                rmax = 1 + (rmax - 1) * (t - start) / (self.o["rmax_end"] - start)
            if t < self.o["dmax_end"]:
                dmax = dmax * (t - start) / (self.o["dmax_end"] - start)
        return rmax, dmax

    def train(self, x):
        y, sets = torch.empty_like(x), chunks(len(x), self.o["norm_batch"])
        old_mean, old_std = (self.buffers[f"running_{name}"].clone() for name in ("mean", "std"))
        rmax, dmax = self.limits()
        weight = self.o["momentum"] / len(sets)
        for rows in sets:
            for c in range(x.shape[1]):
                mean, var, _ = moments(x[rows, c])
                dev = torch.sqrt(var + self.o["eps"])
                scale = max(float(old_std[c]), self.o["eps"] ** 0.5)
                r = min(max(float(dev.detach()) / scale, 1 / rmax), rmax)
                d = min(max(float(mean.detach() - old_mean[c]) / scale, -dmax), dmax)
                y[rows, c] = (x[rows, c] - mean) / dev * r + d
                for name, new in (("mean", mean), ("std", dev)):
                    value = self.buffers[f"running_{name}"]
                    value[c] = (1 - weight) * value[c] + weight * new.detach()
        self.buffers["steps"] += 1
        return self.affine(y)

    def evaluate(self, x):
        dev = self.buffers["running_std"].clamp(min=self.o["eps"] ** 0.5)
        return self.affine((x - like(self.buffers["running_mean"], x)) / like(dev, x))

    def affine(self, y):
        if not self.parameters:
            return y
        return y * like(self.parameters["weight"], y) + like(self.parameters["bias"], y)
