"""cnn3 by hand: 3x3 convolutions 16 (stride 2), 32 (stride 2), 32, flatten, linear."""

import torch.nn.functional as F

CASES = [
    (
        {},
        (1, 28, 28),
        (1 * 16 * 9 + 16) + (16 * 32 * 9 + 32) + (32 * 32 * 9 + 32) + (32 * 7 * 7 * 10 + 10),
        {"conv1": (16, 14, 14), "conv2": (32, 7, 7), "conv3": (32, 7, 7), "flatten": (1568,)},
    ),
    (
        {},
        (3, 32, 32),
        (3 * 16 * 9 + 16) + (16 * 32 * 9 + 32) + (32 * 32 * 9 + 32) + (32 * 8 * 8 * 10 + 10),
        {"conv1": (16, 16, 16), "conv2": (32, 8, 8), "conv3": (32, 8, 8), "flatten": (2048,)},
    ),
    (
        {},
        (2, 13, 6),  # 13 -> 7 -> 4, 6 -> 3 -> 2
        (2 * 16 * 9 + 16) + (16 * 32 * 9 + 32) + (32 * 32 * 9 + 32) + (32 * 4 * 2 * 10 + 10),
        {"conv1": (16, 7, 3), "conv2": (32, 4, 2), "conv3": (32, 4, 2)},
    ),
]
CHANNELS = BIASES = 16 + 32 + 32
DROPS = 3
SMALL = (1, 5, 6)
REFUSED = [({}, (3, 4, 4), "model=cnn3: needs images of at least 5x5, these are 4x4")]


def forward(p, x):
    for layer, stride in ((1, 2), (2, 2), (3, 1)):
        weight, bias = p[f"conv{layer}.linear.weight"], p[f"conv{layer}.linear.bias"]
        x = F.conv2d(x, weight, bias, stride=stride, padding=1).clamp(min=0)
    return x.flatten(1) @ p["head.weight"].T + p["head.bias"]
