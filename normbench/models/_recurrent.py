"""Reading of images by recurrent nets: from top to bottom, some rows at each time step."""

from __future__ import annotations

from torch import Tensor

from normbench.errors import ModelError
from normbench.models._base import Shape
from normbench.norms._base import divisors


def steps_of(shape: Shape, rows: int) -> int:
    """Return the number of time steps in which an image of `shape` (C, H, W) is read.

    Raises: ModelError if H is not a multiple of `rows`.
    """
    height = shape[1]
    if height % rows:
        works = divisors(height)
        why = (
            f"the {height} rows of an image do not divide into steps of {rows} "
            f"(divisors: {', '.join(map(str, works))})"
        )
        raise ModelError("rows", rows, why, min(works, key=lambda divisor: abs(divisor - rows)))
    return height // rows


def by_rows(x: Tensor, rows: int) -> Tensor:
    """Cut images (N, C, H, W) into sequences (N, H / rows, C * rows * W)."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // rows, rows, w).transpose(1, 2).flatten(2)
