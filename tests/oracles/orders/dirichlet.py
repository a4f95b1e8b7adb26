"""Class shares vary as Dirichlet-multinomial counts: by (batch + K a) / (1 + K a)."""

import numpy as np

OPTIONS = [{}, {"alpha": 0.02}, {"alpha": 50.0}]
REFUSED = []


def check(counts, batch, **options):
    alpha, classes = options.get("alpha", 0.3), counts.shape[1]
    # Its mean number of classes in a batch is more telling than the variance once classes run out.
    one = np.exp(np.log1p(-alpha / (alpha * classes + np.arange(batch))).sum())
    found = (counts > 0).sum(1).mean()
    assert abs(found - classes * (1 - one)) < 0.15 * classes
