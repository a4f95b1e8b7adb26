"""cnn by hand: 3x3-16, pool, 3x3-32, pool, linear."""

import torch.nn.functional as F

CASES = [  # options, input shape, parameters without a norm, shapes of the outputs by path
    (
        {},
        (1, 28, 28),
        (1 * 16 * 9 + 16) + (16 * 32 * 9 + 32) + (32 * 7 * 7 * 10 + 10),
        {"one": (16, 28, 28), "pool1": (16, 14, 14), "two": (32, 14, 14), "pool2": (32, 7, 7)},
    ),
    (
        {},
        (3, 32, 32),
        (3 * 16 * 9 + 16) + (16 * 32 * 9 + 32) + (32 * 8 * 8 * 10 + 10),
        {"one": (16, 32, 32), "pool1": (16, 16, 16), "two": (32, 16, 16), "pool2": (32, 8, 8)},
    ),
    ({"pool": "avg"}, (1, 6, 4), 160 + 4640 + 330, {"one": (16, 6, 4), "pool2": (32, 1, 1)}),
]
CHANNELS = 16 + 32  # normalized
BIASES = 16 + 32  # of layers with a norm directly after them
DROPS = 2  # layers of dropout
SMALL = (1, 4, 5)  # about the smallest images
REFUSED = [({}, (1, 3, 28), "model=cnn: needs images of at least 4x4, these are 3x28")]


def forward(p, x, pool="max"):
    pooled = F.max_pool2d if pool == "max" else F.avg_pool2d
    x = F.conv2d(x, p["one.linear.weight"], p["one.linear.bias"], padding=1)
    x = pooled(x.clamp(min=0), 2)
    x = F.conv2d(x, p["two.linear.weight"], p["two.linear.bias"], padding=1)
    x = pooled(x.clamp(min=0), 2)
    return x.flatten(1) @ p["head.weight"].T + p["head.bias"]
