"""resnet20 by hand: n = 3, 272,474 parameters on CIFAR-10 with bn and 1x1 skips."""

from oracles.models import _resnet

CASES = _resnet.cases(3)
CHANNELS = BIASES = _resnet.channels(3)
assert _resnet.parameters(3, 3, skips=True) + CHANNELS == 272_474  # bn, published
DROPS = 1 + 3 * 3  # stem, and the inner unit of each block
SMALL = (1, 8, 9)
REFUSED = _resnet.refused("resnet20")


def forward(p, x):
    return _resnet.forward(p, x, 3)
