"""Ghost batch normalization in float64: batch normalization (bn.py) of contiguous chunks."""

from oracles.norms import bn
from oracles.norms.bn import INVARIANT

__all__ = ["INVARIANT"]

KIND = "features"
OPTIONS = [
    {},
    {"size": 2},
    {"size": 4, "eps": 0.3, "momentum": 0.7},
    {"size": 3, "affine": False, "momentum": 1.0},
    {"size": 6, "momentum": 0.0},
]
SHAPES = [(6, 5, 4, 3), (6, 5, 4), (6, 5), (2, 5), (2, 3, 7), (2, 5, 4, 3), (6, 5, 1, 1)]
CASES = [
    *[({}, shape) for shape in [*SHAPES, (1, 5, 4, 3)]],
    *[(options, shape) for options in OPTIONS[1:] for shape in SHAPES[:3]],
    *[({"size": size}, (7, 3, 2, 2)) for size in (1, 3, 5, 6, 7, 8)],
    *[({"size": size, "momentum": 0.6}, (9, 2)) for size in (3, 5, 8)],
]
REFUSED = [
    ({}, (1, 5), r"norm=GhostBatchNorm: input \(1, 5\) leaves 1 value per channel"),
    ({"size": 1}, (4, 5), r"input \(4, 5\) leaves 1 value per channel and chunk"),
    ({"size": 3}, (7, 5), r"1 value per channel and chunk [^\n]*\n  try: norm.size=7$"),  # 3, 3, 1
    ({"size": 3}, (7, 5, 1, 1), "leaves 1 value per channel and chunk"),
    ({"size": 2}, (0, 5), "leaves 0 values per channel"),
    ({"size": 0}, None, "norm.size=0: "),
    ({"size": 2.0}, None, "norm.size=2.0: "),
    ({"momentum": None}, None, "norm.momentum=.*: is not "),
    ({"momentum": 1.5}, None, "norm.momentum=1.5: "),
    ({"eps": -1e-5}, None, "norm.eps=-1e-05: "),
]


class Oracle(bn.Oracle):
    def __init__(self, channels, dims, size=32, **options):
        super().__init__(channels, dims, norm_batch=size, **options)
