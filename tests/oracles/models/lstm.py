"""lstm by hand: torch's cell, whose second bias is 1 for the forget gates, over an image's rows."""

import torch
from torch import nn

CASES = [
    (
        {},
        (1, 28, 28),
        (28 * 256 + 256) + 64 * 256 + (64 * 10 + 10),
        {"hidden": (256,), "head": (10,)},
    ),
    (
        {},
        (3, 32, 32),
        (3 * 32 * 256 + 256) + 64 * 256 + (64 * 10 + 10),
        {"hidden": (256,), "head": (10,)},
    ),
    (
        {"rows": 2, "width": 5},
        (3, 4, 6),
        (3 * 2 * 6 * 20 + 20) + 5 * 20 + (5 * 10 + 10),
        {"hidden": (20,)},
    ),
    (
        {"width": 5, "forget_bias": -0.5},
        (1, 4, 6),
        (6 * 20 + 20) + 5 * 20 + (5 * 10 + 10),
        {"hidden": (20,)},
    ),
]
CHANNELS = 4 * 64 + 64  # gates and memory
BIASES = 4 * 64
SUMMED = ("input.linear", "hidden.linear")  # the first has the one bias
DROPS = 1  # before the head
SMALL = (1, 3, 4)
REFUSED = [
    ({"rows": 5}, (3, 32, 32), "model.rows=5: the 32 rows of an image do not divide into steps"),
]


def forward(p, x, width=64, rows=1, forget_bias=1.0):
    cell = nn.LSTMCell(p["input.linear.weight"].shape[1], width, dtype=x.dtype)
    weights = {
        "weight_ih": p["input.linear.weight"],
        "bias_ih": p["input.linear.bias"],
        "weight_hh": p["hidden.linear.weight"],
        "bias_hh": torch.tensor([0.0, forget_bias, 0.0, 0.0]).repeat_interleave(width).to(x),
    }
    state = (x.new_zeros(len(x), width), x.new_zeros(len(x), width))
    for t in range(x.shape[2] // rows):
        now = x[:, :, t * rows : (t + 1) * rows].flatten(1)
        state = torch.func.functional_call(cell, weights, (now, state))
    return state[0] @ p["head.weight"].T + p["head.bias"]
