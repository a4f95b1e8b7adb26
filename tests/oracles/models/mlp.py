"""mlp by hand: dense layers of equal width."""

CASES = [
    (
        {},
        (1, 28, 28),
        (784 * 100 + 100) + (100 * 100 + 100) + (100 * 100 + 100) + (100 * 10 + 10),
        {"layer1": (100,), "layer2": (100,), "layer3": (100,)},
    ),
    (
        {},
        (3, 32, 32),
        (3072 * 100 + 100) + 2 * (100 * 100 + 100) + (100 * 10 + 10),
        {"layer1": (100,), "layer2": (100,), "layer3": (100,)},
    ),
    (
        {"depth": 1, "width": 7},
        (1, 2, 3),
        (6 * 7 + 7) + (7 * 10 + 10),
        {"flatten": (6,), "layer1": (7,)},
    ),
    (
        {"depth": 100, "width": 3},
        (1, 1, 1),
        (1 * 3 + 3) + 99 * (3 * 3 + 3) + (3 * 10 + 10),
        {"layer1": (3,), "layer100": (3,)},
    ),
    (
        {"depth": 3, "width": 4, "skip": True},
        (1, 2, 2),
        3 * (4 * 4 + 4) + (4 * 10 + 10),
        {"layer1": (4,), "layer3": (4,)},
    ),
]
CHANNELS = BIASES = 3 * 100
DROPS = 3
SMALL = (1, 4, 5)
REFUSED = [
    ({"depth": 0}, (1, 28, 28), "model.depth=0: "),
    ({"width": 1.5}, (1, 28, 28), "model.width=1.5: "),
]


def forward(p, x, depth=3, width=100, skip=False):
    x = x.flatten(1)
    for layer in range(1, depth + 1):
        y = x @ p[f"layer{layer}.linear.weight"].T + p[f"layer{layer}.linear.bias"]
        x = y.clamp(min=0) + (x if skip and layer > 1 else 0)
    return x @ p["head.weight"].T + p["head.bias"]
