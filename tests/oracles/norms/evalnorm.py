"""EvalNorm in float64, from Singh & Shrivastava 2019; the fit as least squares over samples."""

import torch
from oracles.norms import bn
from oracles.norms.bn import moments

KIND = "features"
OPTIONS = [
    {},
    {"alpha": 0.3, "eps": 0.2, "momentum": 0.7},
    {"alpha": 0.2, "beta": 0.6, "affine": False},
    {"beta": 0.5},
    {"alpha": 0.0, "momentum": 0.0},
    {"alpha": 1.0, "beta": 1.0},
    {"alpha": "fit", "momentum": 0.4},
    {"alpha": "fit", "beta": 0.25},
    {"norm_batch": "global", "alpha": "fit"},
    {"norm_batch": 2},
    {"norm_batch": 4, "alpha": "fit", "momentum": 0.8},
]
SHAPES = [(6, 5, 4, 3), (6, 5, 4), (6, 5), (2, 5), (2, 3, 7), (2, 5, 4, 3), (6, 5, 1, 1)]
CASES = [
    *[({}, shape) for shape in SHAPES],
    *[(options, shape) for options in OPTIONS[1:] for shape in SHAPES[:3]],
    *[(options, (1, 5, 4, 3)) for options in OPTIONS],
    *[({"norm_batch": size, "alpha": "fit"}, (7, 3, 2, 2)) for size in (3, 5)],
]
REFUSED = [
    ({}, (1, 5), r"norm=EvalBatchNorm: input \(1, 5\) leaves 1 value per channel"),
    ({}, (1, 5, 1, 1), r"input \(1, 5, 1, 1\) leaves 1 value per channel"),
    ({}, (0, 5), "leaves 0 values per channel"),
    ({"norm_batch": 1}, (4, 5), "leaves 1 value per channel and chunk"),
    ({"alpha": 1.5}, None, "norm.alpha=1.5: "),
    ({"alpha": "all"}, None, "norm.alpha=all: "),
    ({"beta": -0.5}, None, "norm.beta=-0.5: "),
    ({"beta": "fit"}, None, "norm.beta=fit: "),
    ({"momentum": None}, None, "norm.momentum=.*: is not "),
    ({"momentum": 1.5}, None, "norm.momentum=1.5: "),
    ({"eps": -1e-5}, None, "norm.eps=-1e-05: "),
]
INVARIANT = {"shift", "scale", "channel_shift", "channel_scale"}


class Oracle(bn.Oracle):
    def __init__(self, channels, dims, alpha=None, beta=None, **options):
        super().__init__(channels, dims, **options)
        self.alpha, self.beta = alpha, beta
        self.buffers["steps"] = self.buffers.pop("num_batches_tracked")
        self.buffers["batch"] = torch.tensor(1.0, dtype=torch.float64)
        if alpha == "fit":
            self.buffers["alpha_sums"] = torch.zeros(2)
            if beta is None:
                self.buffers["beta_sums"] = torch.zeros(2)

    def follow(self, found):
        if self.alpha == "fit":
            self.fit("alpha_sums", found, self.of_means)
            if self.beta is None:
                self.fit("beta_sums", found, self.of_variances)
        momentum = self.momentum / len(found)
        for part in found:
            for c in range(part.shape[1]):
                mean, var, _ = moments(part[:, c])
                for name, new in (("mean", mean), ("var", var)):
                    value = self.buffers[f"running_{name}"]
                    value[c] = (1 - momentum) * value[c] + momentum * new
            self.buffers["batch"] = self.buffers["batch"].clamp(min=len(part))
        self.buffers["steps"] += 1

    def fit(self, name, found, pair):
        for part in found:
            sums = torch.zeros(2, dtype=torch.float64)
            for c in range(part.shape[1]):
                mean, var, _ = moments(part[:, c])
                for sample in part[:, c]:
                    wanted, given = pair(c, mean, var, *moments(sample)[:2])
                    sums += torch.stack([wanted * given, given * given])
            weight = self.momentum / len(found)
            self.buffers[name] = (1 - weight) * self.buffers[name] + weight * sums

    def of_means(self, c, mean, var, mean_s, var_s):
        running = self.buffers["running_mean"][c]
        return mean - running, mean_s - running

    def of_variances(self, c, mean, var, mean_s, var_s):
        _, own, running = self.mixed(c, mean_s, var_s)
        return var - running, own - running

    def mixed(self, c, mean_s, var_s):
        """The mean of a sample in evaluation, and the two variances around it."""
        running_mean, running_var = (self.buffers[f"running_{k}"][c] for k in ("mean", "var"))
        alpha = self.shares()[0]
        mean = alpha * mean_s + (1 - alpha) * running_mean
        return mean, var_s + (mean_s - mean) ** 2, running_var + (running_mean - mean) ** 2

    def shares(self):
        alpha = self.alpha
        if alpha is None:
            alpha = 1 / float(self.buffers["batch"])
        elif alpha == "fit":
            alpha = slope(self.buffers["alpha_sums"])
        beta = alpha if self.beta is None else self.beta
        if self.alpha == "fit" and self.beta is None:
            beta = slope(self.buffers["beta_sums"])
        return alpha, beta

    def evaluate(self, x):
        y, beta = torch.empty_like(x), self.shares()[1]
        for s, sample in enumerate(x):
            for c, values in enumerate(sample):
                mean, own, running = self.mixed(c, *moments(values)[:2])
                y[s, c] = (values - mean) / torch.sqrt(beta * own + (1 - beta) * running + self.eps)
        return self.affine(y)


def slope(sums):
    return min(max(float(sums[0] / sums[1]), 0.0), 1.0) if sums[1] > 0 else 0.0
