"""blog6 by hand: the tutorial's two counts, 48,842 without a norm and 49,322 with bn, decide."""

import torch.nn.functional as F

CASES = [
    (
        {},
        (1, 28, 28),
        48_842,  # 160 + 4,640 + 18,496 + 2,080 + 18,496 + 2,080 + 2,890
        {
            "conv1": (16, 28, 28),
            "pool1": (16, 14, 14),
            "conv2": (32, 14, 14),
            "pool2": (32, 7, 7),
            "conv3": (64, 7, 7),
            "conv4": (32, 7, 7),
            "conv5": (64, 7, 7),
            "conv6": (32, 7, 7),
            "pool3": (32, 3, 3),
            "flatten": (288,),
        },
    ),
    (
        {},
        (3, 32, 32),
        48_842 + 2 * 16 * 9 + (32 * 4 * 4 - 288) * 10,  # two input channels and 224 features more
        {"conv1": (16, 32, 32), "conv2": (32, 16, 16), "conv6": (32, 8, 8), "pool3": (32, 4, 4)},
    ),
]
CHANNELS = BIASES = 16 + 32 + 64 + 32 + 64 + 32
assert 48_842 + 2 * CHANNELS == 49_322
DROPS = 6
SMALL = (1, 8, 9)
REFUSED = [({}, (1, 28, 7), "model=blog6: needs images of at least 8x8, these are 28x7")]


def forward(p, x):
    for layer, padding, pool in ((1, 1, 2), (2, 1, 2), (3, 1, 1), (4, 0, 1), (5, 1, 1), (6, 0, 2)):
        weight, bias = p[f"conv{layer}.linear.weight"], p[f"conv{layer}.linear.bias"]
        x = F.max_pool2d(F.conv2d(x, weight, bias, padding=padding).clamp(min=0), pool)
    return x.flatten(1) @ p["head.weight"].T + p["head.bias"]
