"""vgg11 by hand: 64, M, 128, M, 256, 256, M, 512, 512, M, 512, 512, M, average, linear."""

import torch.nn.functional as F

CONVS = (
    3 * 64 * 9 + 64,
    64 * 128 * 9 + 128,
    128 * 256 * 9 + 256,
    256 * 256 * 9 + 256,
    256 * 512 * 9 + 512,
    3 * (512 * 512 * 9 + 512),
)
CASES = [
    (
        {},
        (1, 28, 28),
        sum(CONVS) - 2 * 64 * 9 + 5_130,
        {
            "pool1": (64, 14, 14),
            "pool2": (128, 7, 7),
            "pool3": (256, 4, 4),
            "pool4": (512, 2, 2),
            "conv8": (512, 2, 2),
            "pool5": (512, 1, 1),
        },
    ),
    (
        {},
        (3, 32, 32),
        9_225_610,  # and 9,231,114 with two more for each of 2,752 channels, as often published
        {
            "pool1": (64, 16, 16),
            "pool2": (128, 8, 8),
            "pool3": (256, 4, 4),
            "pool4": (512, 2, 2),
            "pool5": (512, 1, 1),
        },
    ),
]
CHANNELS = BIASES = 64 + 128 + 2 * 256 + 4 * 512
assert 9_225_610 + 2 * CHANNELS == 9_231_114
DROPS = 8
SMALL = (1, 17, 17)
REFUSED = [({}, (1, 17, 16), "model=vgg11: needs images of at least 17x17, these are 17x16")]


def forward(p, x):
    for layer in range(1, 9):
        weight, bias = p[f"conv{layer}.linear.weight"], p[f"conv{layer}.linear.bias"]
        x = F.conv2d(x, weight, bias, padding=1).clamp(min=0)
        if layer in (1, 2, 4, 6, 8):
            x = F.max_pool2d(x, 2, ceil_mode=True)
    return x.mean((2, 3)) @ p["head.weight"].T + p["head.bias"]
