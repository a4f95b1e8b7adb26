"""vit_tiny by hand: token by token, head by head, from Dosovitskiy et al. and Beyer et al."""

import math

import torch

BLOCK = 64 * 192 + 192 + 64 * 64 + 64 + 64 * 128 + 128 + 128 * 64 + 64
CASES = [
    (
        {},
        (1, 28, 28),
        16 * 64 + 64 + 4 * BLOCK + 64 * 10 + 10,
        {"head": (10,), "blocks.block1.qkv": (192,), "blocks.block4": (64,)},
    ),
    (
        {"depth": 2, "width": 8, "heads": 2, "patch": 2},
        (3, 4, 6),
        12 * 8 + 8 + 2 * (8 * 24 + 24 + 72 + 8 * 16 + 16 + 16 * 8 + 8) + 90,
        {"embed": (8,), "blocks.block2.one": (16,)},
    ),
]
CHANNELS = (2 * 4 + 1) * 64
BIASES = 0  # no linear layer goes directly into a norm
DROPS = 4
SMALL = (1, 8, 8)
REFUSED = [
    (
        {"patch": 5},
        (1, 28, 28),
        "model.patch=5: does not divide images of 28x28\n  try: model.patch=4",
    ),
    (
        {"heads": 3},
        (1, 8, 8),
        "model.width=64: is no multiple of heads=3 and of 4\n  try: model.width=60",
    ),
]


def position(i, j, width):
    rates = [10_000 ** (-n / (width // 4 - 1)) for n in range(width // 4)]
    parts = [(math.sin, j), (math.cos, j), (math.sin, i), (math.cos, i)]
    return torch.tensor([f(at * rate) for f, at in parts for rate in rates])


def forward(p, x, depth=4, width=64, heads=4, patch=4):
    def dense(path, value):
        return value @ p[f"{path}.linear.weight"].T + p[f"{path}.linear.bias"]

    def attention(path, tokens):
        q, k, v = dense(f"{path}.qkv", tokens).split(width, 2)
        mixed, size = [], width // heads
        for h in range(heads):
            mine = slice(h * size, (h + 1) * size)
            scores = torch.einsum("nac,nbc->nab", q[..., mine], k[..., mine]) / math.sqrt(size)
            shares = scores.exp() / scores.exp().sum(2, keepdim=True)
            mixed.append(torch.einsum("nab,nbc->nac", shares, v[..., mine]))
        return dense(f"{path}.out", torch.cat(mixed, 2))

    rows, columns = x.shape[2] // patch, x.shape[3] // patch
    tokens = []
    for i in range(rows):
        for j in range(columns):
            cut = x[:, :, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            tokens.append(dense("embed", cut.flatten(1)) + position(i, j, width))
    z = torch.stack(tokens, 1)
    for block in range(1, depth + 1):
        path = f"blocks.block{block}"
        z = z + attention(path, z)
        z = z + dense(f"{path}.two", dense(f"{path}.one", z).clamp(min=0))
    return z.mean(1) @ p["head.weight"].T + p["head.bias"]
