"""resnet32 by hand: n = 5, 466,906 parameters on CIFAR-10 with bn and 1x1 skips."""

from oracles.models import _resnet

CASES = _resnet.cases(5)
CHANNELS = BIASES = _resnet.channels(5)
assert _resnet.parameters(3, 5, skips=True) + CHANNELS == 466_906  # bn, published
DROPS = 1 + 3 * 5  # stem, and the inner unit of each block
SMALL = (1, 8, 9)
REFUSED = _resnet.refused("resnet32")


def forward(p, x):
    return _resnet.forward(p, x, 5)
