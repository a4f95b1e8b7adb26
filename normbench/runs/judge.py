"""Judges the weights that a run has kept, in ways that its training was not asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normbench.engine.budget import Diverged
from normbench.engine.evaluate import Evaluator
from normbench.errors import FileRefused, shown
from normbench.runs import build, evaluations, probe, weights
from normbench.runs.check import Checked, check_fit
from normbench.runs.evaluations import Evaluation
from normbench.runs.job import budget, empty_model, facts, feeds_of
from normbench.runs.reader import read_status
from normbench.runs.state import load
from normbench.runtime import collectives, machine, storage
from normbench.runtime.lock import Lock
from normbench.settings.schema import DOMAINS, Config


def check(configs: Sequence[Config]) -> None:
    """Look whether weights can be judged so, before anything is judged.

    Raises: FileRefused if the classes of other data are not those of the run; Refused if its norm
        cannot be judged by such statistics; MachineError if the device is not here.
    """
    seen: dict[str, Checked] = {}
    for config in configs:
        machine.resolve_device(config.judging_device or config.device, 1)
        mine, theirs = (build.data(each).classes for each in (config, config.tested))
        if mine != theirs:
            why = f"has the classes {_listed(theirs)}, and the run was trained on {_listed(mine)}"
            raise FileRefused(f"data={config.tested.label}", why, f"data={config.data['name']}")
        if config.eval_stats == "dataset":
            error = check_fit(config, config.shape, config.classes, seen).error
            if error:
                raise error


def judge(training: Config, configs: Sequence[Config]) -> None:
    """Judge the weights of one run in several ways, and keep what comes of each beside it.

    What has been kept already is left; with `keep=none` the weights go. Of torchrun's processes the
    first one judges.

    Raises: FileRefused if the run is in use, or its weights are missing or do not fit.
    """
    gone = training.keep == "none" and weights.path(training.directory).exists()
    if collectives.rank() or not (configs or gone):
        return
    with Lock(training.directory), collectives.alone():
        status = read_status(training.directory) or {}
        digest = str(status.get("state_sha256"))
        left = [config for config in configs if evaluations.read(config, digest) is None]
        if left:
            weights.check(training.directory, digest)
            kept = weights.read(training.directory)
        for config in left:
            values, right = judged(config, kept, status["step"], status["final"])
            evaluations.write(config, Evaluation(config.evaluation, digest, values, right))
        if gone:
            storage.remove(weights.path(training.directory))


def judged(
    config: Config, kept: Mapping[str, Tensor], step: int, known: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, bytes]]:
    """Judge weights as a config asks: on its validation images, tests, and training images.

    A run of several workers is judged by one process, by statistics over as many images.

    Args: kept: by name, as in the `state_dict` of the model; step: optimizer steps behind them;
        known: what the training found in its own evaluation, whose tests are not made again.
    Returns: values by metric, and which images of each test are right, packed.
    Raises: FileRefused if the weights do not fit the model.
    """
    machine.prepare(config.threads)
    one = build.alone(config)
    feeds, model = feeds_of(one), empty_model(one)
    load(model, kept, config)
    anew = not known or "eval_stats" in config.evaluation or config.other is not None
    if not anew:
        feeds = {name: feed for name, feed in feeds.items() if name not in ("test", *DOMAINS)}
    cast = partial(
        torch.autocast, one.device, dtype=torch.bfloat16, enabled=config.precision == "bf16"
    )
    light = replace(budget(one), diagnose="light", target=None)
    evaluator = Evaluator(model, cast, build.norm(one), feeds, light)
    values: dict[str, Any] = {}
    for rows in (evaluator.validation(step) if anew else (), evaluator.test(step)):
        with suppress(Diverged):  # after the row that says so
            for row in rows:
                values |= row.values
    if config.train_acc:
        accuracy = evaluator.train_accuracy()
        values["train_eval/accuracy"] = accuracy
        values["gen_gap/accuracy"] = accuracy - {**known, **values}["test/accuracy"]
    if config.probe:
        found = probe.measure(config, probe.Asked(rank=True), kept).metrics
        values |= {f"probe/{name.replace('/', '_')}": value for name, value in found.items()}
    if config.other:
        known = facts(one, feeds)
        values |= {key: known[key] for key in known if key.startswith("chance/test")}
    return values, packed(evaluator.right)


def packed(right: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Pack which images of each test are right, to 8 a byte, the first the highest bit."""
    return {
        "" if name == "test" else name: np.packbits(mask.cpu().numpy()).tobytes()
        for name, mask in right.items()
    }


def _listed(classes: Sequence[str]) -> str:
    return shown(" ".join(classes))
