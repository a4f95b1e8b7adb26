"""Local response normalization in float64, from Krizhevsky et al. 2012, section 3.3."""

import torch

KIND = "features"
OPTIONS = [
    *[{}, {"alpha": 0.6, "beta": 1.3, "k": 0.5}, {"size": 4, "alpha": 2.0}],
    *[{"size": 1, "alpha": 1.0}, {"size": 20, "alpha": 3.0}],
    *[{"divide": False, "k": 2.0}, {"divide": False, "size": 3, "alpha": 0.7}],
]
REFUSED = [
    ({"divide": False, "size": 4}, None, "norm.size=4: is even"),
    ({"size": 0}, None, "norm.size=0: must be at least 1"),
    ({"k": 0.0}, None, "norm.k=0.0: must be above 0"),
    ({}, (4, 6, 5, 5, 5), r"got shape \(4, 6, 5, 5, 5\)"),
]
INVARIANT = set()


class Oracle:
    def __init__(self, channels, dims, size=5, alpha=1e-4, beta=0.75, k=1.0, divide=True):
        self.size, self.beta, self.k = size, beta, k
        self.a = alpha / size if divide else alpha
        self.parameters, self.buffers = {}, {}

    def train(self, x):
        y = []
        for c in range(x.shape[1]):
            squares = torch.zeros(x[:, c].shape, dtype=torch.float64)
            for j in range(c - self.size // 2, c + (self.size - 1) // 2 + 1):
                if 0 <= j < x.shape[1]:
                    squares = squares + x[:, j] ** 2
            y.append(x[:, c] / (self.k + self.a * squares) ** self.beta)
        return torch.stack(y, dim=1)

    evaluate = train
