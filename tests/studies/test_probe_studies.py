"""Studies that train nothing: nets at their start, and times of steps."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from commands import document
from made_up import MINE


def test_a_study_may_measure_nets_at_their_start(tmp_path: Path) -> None:
    """3,072 x 4 weights, 4 biases, and the head of 4 x 10 and 10: counted, not trained."""
    claim = {"metric": "probe(parameters)", "effect": "level", "constant": 12288 + 4 + 50}
    tree = {
        **{key: MINE[key] for key in ("id", "claim")},
        "kind": "probe",
        "factors": {"norm": ["none"]},
        "fixed": {**MINE["fixed"], "model": {"name": "mlp", "depth": 1, "width": 4}},
        "hypotheses": [{"id": "all", **claim, "a": {}, "region": "equal", "delta": 0.5}],
        "seeds": {"screen": 6},
        "sizes": {"quick": {}},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    found = document("study", "run", "./mine.yaml", cwd=tmp_path)
    assert (found["verdict"], found["hypotheses"]["fixed"][0]["mean"]) == ("supported", 0.0)
    assert document("study", "verdict", "./mine.yaml", cwd=tmp_path) == found


def test_a_study_may_time_training_steps(tmp_path: Path) -> None:
    tree = {
        **{key: MINE[key] for key in ("id", "claim")},
        "kind": "probe",
        "probe": {"timing": True},
        "factors": {"batch": [2, 64]},
        "fixed": {**MINE["fixed"], "norm": "bn", "threads": 1},
        "hypotheses": [
            {"id": "faster", "metric": "probe(ln_image_s)", "effect": "slope", "over": "batch"}
            | {"a": {}, "region": "less", "delta": 0.05}
        ],
        "seeds": {"screen": 6},
        "sizes": {"quick": {}},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    document("study", "run", "./mine.yaml", cwd=tmp_path)
    (kept,) = (tmp_path / "outputs" / "studies").glob("*/*/probes.json")
    timed = json.loads(kept.read_text())
    assert {name for name in timed["64"]["1000"]} == {"ln_image_s", "ln_pass", "core_s"}
