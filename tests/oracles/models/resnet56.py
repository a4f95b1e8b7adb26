"""resnet56 by hand: n = 9, 855,770 parameters on CIFAR-10 with bn and 1x1 skips."""

from oracles.models import _resnet

CASES = _resnet.cases(9)
CHANNELS = BIASES = _resnet.channels(9)
assert _resnet.parameters(3, 9, skips=True) + CHANNELS == 855_770  # bn, published
DROPS = 1 + 3 * 9  # stem, and the inner unit of each block
SMALL = (1, 8, 9)
REFUSED = _resnet.refused("resnet56")


def forward(p, x):
    return _resnet.forward(p, x, 9)
