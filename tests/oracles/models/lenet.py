"""lenet by hand: LeNet-5 with average pooling, 61,706 parameters on MNIST."""

import torch.nn.functional as F

CASES = [
    (
        {},
        (1, 28, 28),
        61_706,  # 156 + 2,416 + 48,120 + 10,164 + 850
        {
            "conv1": (6, 28, 28),
            "pool1": (6, 14, 14),
            "conv2": (16, 10, 10),
            "pool2": (16, 5, 5),
            "layer1": (120,),
            "layer2": (84,),
        },
    ),
    (
        {},
        (3, 32, 32),
        (3 * 6 * 25 + 6) + 2_416 + (16 * 6 * 6 * 120 + 120) + 10_164 + 850,
        {"conv1": (6, 32, 32), "conv2": (16, 12, 12), "pool2": (16, 6, 6), "layer1": (120,)},
    ),
]
CHANNELS = BIASES = 6 + 16 + 120 + 84
DROPS = 4
SMALL = (1, 12, 13)
REFUSED = [({}, (1, 11, 28), "model=lenet: needs images of at least 12x12, these are 11x28")]


def forward(p, x):
    for layer, padding in ((1, 2), (2, 0)):
        weight, bias = p[f"conv{layer}.linear.weight"], p[f"conv{layer}.linear.bias"]
        x = F.avg_pool2d(F.conv2d(x, weight, bias, padding=padding).clamp(min=0), 2)
    x = x.flatten(1)
    for layer in (1, 2):
        x = x @ p[f"layer{layer}.linear.weight"].T + p[f"layer{layer}.linear.bias"]
        x = x.clamp(min=0)
    return x @ p["head.weight"].T + p["head.bias"]
