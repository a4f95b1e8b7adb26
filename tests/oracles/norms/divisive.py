"""Divisive normalization in float64, from Ren et al. 2017, equations 2 to 4 and table 1."""

from itertools import product

import torch

KIND = "features"
OPTIONS = [
    *[{}, {"sum_window": 5}, {"sum_window": 1, "sup_window": 1, "sigma2": 0.1}],
    *[{"sup_window": 5, "sigma2": 0.0}, {"affine": False}],
]
REFUSED = [
    ({"sum_window": 4}, None, "norm.sum_window=4: is even"),
    ({"sup_window": 2}, None, "norm.sup_window=2: is even"),
    ({"sum_window": 0}, None, "norm.sum_window=0: must be at least 1"),
    ({"sigma2": -0.5}, None, "norm.sigma2=-0.5: must be at least 0"),
    ({}, (4, 6, 5, 5, 5), r"got shape \(4, 6, 5, 5, 5\)"),
]
INVARIANT = set()


def window_means(sample, window):
    """Means over a window around each place, of the channels too unless there are no positions."""
    places = sample[None] if sample.dim() == 1 else sample  # features are the only axis then
    half, sides = window // 2, places.shape[1:]
    means = {}
    for at in product(*[range(side) for side in sides]):
        total = torch.zeros((), dtype=torch.float64)
        for step in product(range(-half, half + 1), repeat=len(sides)):
            where = [a + s for a, s in zip(at, step, strict=True)]
            if all(0 <= a < side for a, side in zip(where, sides, strict=True)):
                total = total + places[(slice(None), *where)].sum()
        means[at] = total / (len(places) * window ** len(sides))
    return torch.stack(list(means.values())).reshape(sides)


class Oracle:
    def __init__(self, channels, dims, sum_window=3, sup_window=3, sigma2=1.0, affine=True):
        self.windows, self.sigma2 = (sum_window, sup_window), sigma2
        self.form, self.buffers, self.parameters = (channels, *[1] * dims), {}, {}
        if affine:
            self.parameters["weight"] = torch.ones(channels, requires_grad=True)
            self.parameters["bias"] = torch.zeros(channels, requires_grad=True)

    def train(self, x):
        rows = []
        for sample in x:
            v = sample - window_means(sample, self.windows[0])
            rows.append(v / (self.sigma2 + window_means(v**2, self.windows[1])) ** 0.5)
        y = torch.stack(rows)
        if not self.parameters:
            return y
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        return y * weight.reshape(self.form) + bias.reshape(self.form)

    evaluate = train
