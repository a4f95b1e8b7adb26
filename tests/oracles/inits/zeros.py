"""Zero weights."""

OPTIONS = [{}]


def spread(shape, act):
    return 0.0, 0.0


def exact(weight, act):
    assert not weight.any()
