"""A study of a made-up set with known effects."""

from __future__ import annotations

from typing import Any

# Longer training is better, and a clip that clips nothing changes no bit.
MINE: dict[str, Any] = {
    "id": "mine",
    "claim": "Longer training helps.",
    "arms": {"long": {"steps": 24}, "short": {"steps": 2}, "same": {"steps": 24, "clip": 1e6}},
    "fixed": {
        "data": "synthetic",
        "data.train_size": None,
        "model": {"name": "mlp", "depth": 1, "width": 16},
        "norm": "none",
        "tb": False,
        "eval_every": 100,
    },
    "lr": {"shared": 0.1, "grid": [0.03, 0.1, 0.3]},
    "hypotheses": [
        {"id": "true", "a": {"arm": "long"}, "b": {"arm": "short"}, "region": "greater"}
        | {"delta": 0.5},
        {"id": "none", "a": {"arm": "same"}, "b": {"arm": "long"}, "region": "greater"}
        | {"delta": 0.5},
        {"id": "reversed", "a": {"arm": "long"}, "b": {"arm": "short"}, "region": "less"}
        | {"delta": 0.5},
    ],
    "failures": "chance",
    "seeds": {"tune": 1, "screen": 7},
    "sizes": {"quick": {"delta_floor": 0}},
}
