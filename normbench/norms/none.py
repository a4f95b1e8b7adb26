"""No normalization: the reference point of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from normbench.norms._base import Norm


@dataclass(frozen=True)
class NoNorm(Norm):
    """No normalization: adds nothing, changes nothing.

    y = x. The linear layer keeps its bias and the activation stays where it is.

    Limits: what the initialization sets is all there is: depth and large learning rates are its
        test.
    """

    aliases: ClassVar[tuple[str, ...]] = ("identity",)
