"""rnn by hand: h_t = tanh(W x_t + U h_{t-1} + b) over the rows of an image."""

import torch

CASES = [
    (
        {},
        (1, 28, 28),
        (28 * 64 + 64) + 64 * 64 + (64 * 10 + 10),
        {"hidden": (64,), "head": (10,)},
    ),
    (
        {},
        (3, 32, 32),
        (3 * 32 * 64 + 64) + 64 * 64 + (64 * 10 + 10),
        {"hidden": (64,), "head": (10,)},
    ),
    (
        {"rows": 2, "width": 5},
        (3, 4, 6),
        (3 * 2 * 6 * 5 + 5) + 5 * 5 + (5 * 10 + 10),
        {"hidden": (5,)},
    ),
]
CHANNELS = BIASES = 64
SUMMED = ("input.linear", "hidden.linear")  # the first has the one bias
DROPS = 1  # before the head
SMALL = (1, 3, 4)
REFUSED = [
    (
        {"rows": 3},
        (1, 28, 28),
        "model.rows=3: the 28 rows of an image do not divide into steps of 3 "
        "(divisors: 1, 2, 4, 7, 14, 28)\n  try: model.rows=2",
    ),
    ({"rows": 0}, (1, 28, 28), "model.rows=0: "),
]


def forward(p, x, width=64, rows=1):
    h = x.new_zeros(len(x), width)
    for t in range(x.shape[2] // rows):
        now = x[:, :, t * rows : (t + 1) * rows].flatten(1)
        z = now @ p["input.linear.weight"].T + p["input.linear.bias"]
        h = torch.tanh(z + h @ p["hidden.linear.weight"].T)
    return h @ p["head.weight"].T + p["head.bias"]
