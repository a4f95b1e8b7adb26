"""Normal weights of one standard deviation."""

OPTIONS = [{}, {"std": 0.5}]
REFUSED = [({"std": 0.0}, r"init\.std=0\.0: .*above 0")]


def spread(shape, act, std=0.01):
    return std, None
