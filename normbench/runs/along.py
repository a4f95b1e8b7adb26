"""Watches a net while it trains, in memory: how its layers move, and when they have settled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from normbench.engine import probe
from normbench.engine.probe import Layers
from normbench.rows import Halt
from normbench.runs.job import Job, empty_model

LATE = 1 / 3  # share of the steps before which drift does not count
LIKE = 0.9  # likeness to its end from which a layer has settled


def trained(job: Job, x: Tensor, looks: int) -> tuple[nn.Module, Layers]:
    """Train the net of a job to its end in memory, and look at it `looks` times on the way.

    Returns: the net at its end in float64; and for each layer by path

        drift         mean over units, and over the looks after a third of the steps, of the change
                      of the unit's mean in one step, in deviations, of what the norm gives, or
                      the linear layer where there is none
        linear_drift  the same of what the linear layer gives
        settled       share of the steps after which the layer is first like its end: linear CKA of
                      0.9 at least

    Args: x: images in float64, as one batch.
    """
    steps = job.budget.steps
    at = sorted({max(1, round(look * steps / looks)) for look in range(1, looks + 1)})
    net = empty_model(job.config).double()
    features: dict[int, dict[str, Tensor]] = {}
    drifts: list[Layers] = []
    moments: probe.Moments = {}

    def halts(step: int) -> bool:
        return step in at or step + 1 in at

    job.at.halts = halts
    for row in job.rows():
        if not isinstance(row, Halt):
            continue
        before = moments
        net.load_state_dict(job.model.state_dict())
        moments = probe.moments(net, x)
        if job.at.step in at:
            features[job.at.step] = probe.features(net, x)
            if before and job.at.step > LATE * steps:
                drifts.append(probe.drifts(before, moments))
    return net, _told(features, drifts, steps)


def _told(
    features: Mapping[int, Mapping[str, Tensor]], drifts: Sequence[Layers], steps: int
) -> Layers:
    """Put together what was seen, as far as the net was trained to its end."""
    if steps not in features:
        return {}
    end = features[steps]
    told: Layers = {path: {} for path in end}
    for path in end:
        like = (step for step, seen in features.items() if probe.cka(seen[path], end[path]) >= LIKE)
        told[path]["settled"] = next(like, steps) / steps
        for name in ("drift", "linear_drift"):
            values = [each[path][name] for each in drifts if name in each.get(path, {})]
            if values:
                told[path][name] = math.fsum(values) / len(values)
    return told
