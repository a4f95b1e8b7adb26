"""Half a cosine from 1/25 up to the peak, and another down to 1/250,000."""

import numpy as np


def rates(steps, warm):
    top = warm - 1
    t = np.arange(steps)
    up = 0.04 + 0.96 * np.sin(np.pi * t / 2 / max(1, top)) ** 2
    down = 4e-6 + (1 - 4e-6) * np.cos(np.pi / 2 * (t - top) / max(1, steps - 1 - top)) ** 2
    return np.where(t < top, up, down)
