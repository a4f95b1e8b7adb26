"""plain20 by hand: resnet20 without skips, 269,722 parameters on CIFAR-10 with bn."""

from oracles.models import _resnet

CASES = _resnet.cases(3, skips=False)
CHANNELS = BIASES = _resnet.channels(3, skips=False)
assert _resnet.parameters(3, 3, skips=False) + CHANNELS == 269_722  # bn, published
DROPS = 19
SMALL = (1, 8, 9)
REFUSED = _resnet.refused("plain20")


def forward(p, x):
    return _resnet.forward(p, x, 3, skips=False)
