"""Synchronized batch normalization with one worker: batch normalization. `test_syncbn` has more."""

from oracles.norms.bn import CASES as BN_CASES
from oracles.norms.bn import INVARIANT, SHAPES, Oracle

__all__ = ["INVARIANT", "SHAPES", "Oracle"]

KIND = "features"
OPTIONS = [{}, {"eps": 0.3, "momentum": 0.7}, {"momentum": 0.0}, {"affine": False, "momentum": 1.0}]
CASES = [(options, shape) for options, shape in BN_CASES if options in OPTIONS]
REFUSED = [
    ({}, (1, 5), r"norm=SyncBatchNorm: input \(1, 5\) leaves 1 value per channel"),
    ({}, (1, 5, 1, 1), r"input \(1, 5, 1, 1\) leaves 1 value per channel"),
    ({}, (0, 5), r"input \(0, 5\) leaves 0 values per channel"),
    ({"momentum": None}, None, "norm.momentum=.*: is not "),
    ({"momentum": 1.5}, None, "norm.momentum=1.5: "),
    ({"eps": -1e-5}, None, "norm.eps=-1e-05: "),
    ({"norm_batch": "worker"}, None, "syncbn has no option of this name"),
]
