"""Classes are as in a permutation: hypergeometric in each batch."""

import numpy as np

OPTIONS = [{}]
REFUSED = []


def check(counts, batch, **options):
    share = counts.sum(0) / counts.sum()
    expected = batch * share * (1 - share)
    np.testing.assert_allclose(counts.mean(0), batch * share)
    assert (abs(counts.var(0) - expected) < 0.5 * expected).all()
