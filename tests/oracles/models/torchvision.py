"""torchvision by hand: a residual net, one with depthwise convolutions, and one without norms."""

import torch
import torch.nn.functional as F

STAGES = ((1, 64), (2, 128), (3, 256), (4, 512))  # number, channels
INVERTED = (  # times, channels, repeats, stride of the first
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
FIRES = (  # place, inputs, squeezed, half of the outputs
    *((3, 64, 16, 64), (4, 128, 16, 64), (6, 128, 32, 128), (7, 256, 32, 128)),
    *((9, 256, 48, 192), (10, 384, 48, 192), (11, 384, 64, 256), (12, 512, 64, 256)),
)


def conv(cin, cout, k, groups=1):
    return cin // groups * cout * k * k + cout


def resnet18_parameters(inputs):
    count, width = conv(inputs, 64, 7), 64
    for number, channels in STAGES:
        count += conv(width, channels, 3) + 3 * conv(channels, channels, 3)
        count += conv(width, channels, 1) if number > 1 else 0
        width = channels
    return count + 512 * 10 + 10


def mobilenet_v2_parameters(inputs):
    """The parameters without a norm, and the normalized channels."""
    count, normed, width = conv(inputs, 32, 3), 32, 32
    for times, channels, repeats, _ in INVERTED:
        for _ in range(repeats):
            inner = width * times
            count += conv(width, inner, 1) if times > 1 else 0
            count += conv(inner, inner, 3, groups=inner) + conv(inner, channels, 1)
            normed += (inner if times > 1 else 0) + inner + channels
            width = channels
    return count + conv(320, 1280, 1) + 1280 * 10 + 10, normed + 1280


def squeezenet_parameters(inputs):
    count = conv(inputs, 64, 3) + conv(512, 10, 1)
    for _, cin, inner, half in FIRES:
        count += conv(cin, inner, 1) + conv(inner, half, 1) + conv(inner, half, 3)
    return count


CHANNELS = BIASES = 64 + 4 * 64 + 5 * (128 + 256 + 512)
# A normalized channel has a bias without a norm, and two parameters with torchvision's own.
assert resnet18_parameters(3) + CHANNELS == 11_181_642
assert sum(mobilenet_v2_parameters(3)) == 2_236_682
assert squeezenet_parameters(3) == 727_626
CASES = [
    (
        {},
        (3, 32, 32),
        resnet18_parameters(3),
        {
            "conv1": (64, 16, 16),
            "maxpool": (64, 8, 8),
            "layer1.1.relu": (64, 8, 8),
            "layer2.0.conv1": (128, 4, 4),
            "layer2.0.downsample.0": (128, 4, 4),
            "layer3.0.relu": (256, 2, 2),
            "layer4.1.relu": (512, 1, 1),
            "avgpool": (512, 1, 1),
        },
    ),
    (
        {"arch": "resnet18"},
        (1, 28, 45),
        resnet18_parameters(1),
        {"conv1": (64, 14, 23), "maxpool": (64, 7, 12), "layer4.1.relu": (512, 1, 2)},
    ),
    (
        {"arch": "mobilenet_v2"},
        (2, 33, 40),
        mobilenet_v2_parameters(2)[0],
        {"features.0.0": (32, 17, 20), "features.1.conv.1": (16, 17, 20), "head": (10,)},
    ),
    (
        {"arch": "squeezenet1_1"},
        (3, 32, 32),
        squeezenet_parameters(3),
        {"features.0": (64, 15, 15), "features.3.squeeze": (16, 7, 7), "head": (10, 1, 1)},
    ),
]
DROPS = 0
SMALL = (1, 33, 34)
REFUSED = [
    (
        {"arch": "resnet17"},
        (3, 32, 32),
        "model.arch=resnet17: torchvision has no classification model of this name\n"
        "  try: model.arch=resnet18",
    ),
    (
        {"arch": "alexnet"},
        (3, 62, 70),
        "model.arch=alexnet: needs images of at least 63x63, these are 62x70\n",
    ),
    (
        {"arch": "vit_b_16"},
        (3, 224, 224),
        "model.arch=vit_b_16: has layers of GELU, LayerNorm: only convolutional networks "
        "with BatchNorm2d, or without any norm, can be built\n",
    ),
    ({"arch": 18}, (3, 32, 32), "model.arch=18: is not a word\n  try: model.arch=resnet18"),
]


def forward(p, x, arch="resnet18"):
    return {"resnet18": resnet18, "mobilenet_v2": mobilenet_v2}.get(arch, squeezenet)(p, x)


def apply(p, path, x, **how):
    weight, bias = p[f"{path}.weight"], p[f"{path}.bias"]
    return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2, **how)


def resnet18(p, x):
    x = apply(p, "conv1.linear", x, stride=2).clamp(min=0)
    x = F.max_pool2d(x, 3, 2, 1)
    for number, _ in STAGES:
        for block in (0, 1):
            path, stride = f"layer{number}.{block}", 2 if number > 1 and block == 0 else 1
            y = apply(p, f"{path}.conv1.linear", x, stride=stride).clamp(min=0)
            y = apply(p, f"{path}.conv2.linear", y)
            if stride == 2:
                x = apply(p, f"{path}.downsample.0.linear", x, stride=2)
            x = (y + x).clamp(min=0)
    return x.mean((2, 3)) @ p["head.weight"].T + p["head.bias"]


def mobilenet_v2(p, x):
    x = apply(p, "features.0.0.linear", x, stride=2).clamp(0, 6)
    place = 1
    for times, channels, repeats, stride in INVERTED:
        for repeat in range(repeats):
            y, step, path = x, stride if repeat == 0 else 1, f"features.{place}.conv"
            if times > 1:
                y = apply(p, f"{path}.0.0.linear", y).clamp(0, 6)
            last = 1 if times == 1 else 2
            y = apply(p, f"{path}.{last - 1}.0.linear", y, stride=step, groups=y.shape[1])
            y = apply(p, f"{path}.{last}.linear", y.clamp(0, 6))
            x = x + y if step == 1 and x.shape[1] == channels else y
            place += 1
    x = apply(p, f"features.{place}.0.linear", x).clamp(0, 6)
    return x.mean((2, 3)) @ p["head.weight"].T + p["head.bias"]


def squeezenet(p, x):
    weight, bias = p["features.0.linear.weight"], p["features.0.linear.bias"]
    x = F.conv2d(x, weight, bias, stride=2).clamp(min=0)
    for place, *_ in FIRES:
        if place in (3, 6, 9):
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        path = f"features.{place}"
        x = apply(p, f"{path}.squeeze.linear", x).clamp(min=0)
        halves = [apply(p, f"{path}.{each}.linear", x) for each in ("expand1x1", "expand3x3")]
        x = torch.cat([each.clamp(min=0) for each in halves], 1)
    return apply(p, "head", x).clamp(min=0).mean((2, 3))
