"""The residual nets of 6 n + 2 layers by hand, without a norm."""

import torch.nn.functional as F

SKIPS = (16 * 32 + 32) + (32 * 64 + 64)  # the two 1x1 convolutions
OUTPUTS = {
    (1, 28, 28): {
        "stem": (16, 28, 28),
        "stage1": (16, 28, 28),
        "stage2": (32, 14, 14),
        "stage3": (64, 7, 7),
        "average": (64, 1, 1),
    },
    (3, 32, 32): {
        "stem": (16, 32, 32),
        "stage1": (16, 32, 32),
        "stage2": (32, 16, 16),
        "stage3": (64, 8, 8),
        "average": (64, 1, 1),
    },
    (2, 9, 12): {"stage1": (16, 9, 12), "stage2": (32, 5, 6), "stage3": (64, 3, 3)},
}


def parameters(inputs, n, skips):
    stem = inputs * 16 * 9 + 16
    one = 2 * n * (16 * 16 * 9 + 16)
    two = (16 * 32 * 9 + 32) + (2 * n - 1) * (32 * 32 * 9 + 32)
    three = (32 * 64 * 9 + 64) + (2 * n - 1) * (64 * 64 * 9 + 64)
    return stem + one + two + three + (SKIPS if skips else 0) + (64 * 10 + 10)


def cases(n, skips=True):
    return [({}, s, parameters(s[0], n, skips), outputs) for s, outputs in OUTPUTS.items()]


def channels(n, skips=True):
    return 16 + 2 * n * (16 + 32 + 64) + (32 + 64 if skips else 0)


def refused(name):
    why = f"model={name}: needs images of at least 8x8, these are 8x7\n  try: model=mlp"
    return [({}, (3, 8, 7), why)]


def forward(p, x, n, skips=True):
    def conv(path, x, stride=1):
        weight, bias = p[f"{path}.linear.weight"], p[f"{path}.linear.bias"]
        return F.conv2d(x, weight, bias, stride=stride, padding=weight.shape[2] // 2)

    x = conv("stem", x).clamp(min=0)
    for stage in (1, 2, 3):
        for number in range(1, n + 1):
            block = f"stage{stage}.block{number}"
            stride = 2 if stage > 1 and number == 1 else 1
            y = conv(f"{block}.two", conv(f"{block}.one", x, stride).clamp(min=0))
            if skips:
                y = y + (conv(f"{block}.skip", x, stride) if stride == 2 else x)
            x = y.clamp(min=0)
    return x.mean((2, 3)) @ p["head.weight"].T + p["head.bias"]
