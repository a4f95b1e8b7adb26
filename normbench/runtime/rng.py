"""Random numbers: one generator per purpose, derived from the seed, never from global state.

Purposes do not depend on the configuration, so runs with the same seed see the same batches in
the same order and start from the same weights, whatever their norm: runs are paired by seed.
Seeds from 0 are for results; -1, -2, ... are those of tuning runs, which nobody can ask for.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(*what: int | str) -> int:
    """Return a seed in 0 .. 2**63 - 1 for a purpose, such as `derive(seed, "order", epoch)`."""
    text = "\x1f".join(map(str, what))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(*what: int | str, device: str = "cpu") -> torch.Generator:
    """Return a generator seeded by `derive(*what)`."""
    import torch  # here, for what only derives seeds starts without it

    return torch.Generator(device).manual_seed(derive(*what))
