"""A tenth at one half, a hundredth at three quarters of the steps after the warm-up."""

import numpy as np


def rates(steps, warm):
    u = np.arange(steps - warm) / max(1, steps - warm)
    return np.concatenate(
        [
            np.arange(1, warm + 1) / max(1, warm),
            np.select([4 * u >= 3, 2 * u >= 1], [0.01, 0.1], 1.0),
        ]
    )
