"""Weights that are judged once more: the same numbers as in training, and what is refused."""

from __future__ import annotations

import pytest
import torch

from normbench import config
from normbench.parts import registry
from normbench.runs.check import check_fit
from normbench.runs.job import Job
from normbench.runs.judge import judged
from normbench.settings.schema import Config

SMALL = ("data=synthetic", "data.shape=[1,8,8]", "data.train_size=200", "device=cpu", "steps=4")


def made(*words: str, batch: int = 20) -> Config:
    return config(*SMALL, *words, batch=batch)


def trained(wanted: Config) -> tuple[dict[str, object], dict[str, torch.Tensor], int]:
    """Train, and return what the training says of its end, with its weights and steps."""
    job = Job(wanted)
    values: dict[str, object] = {}
    for row in job.rows():
        values |= {key: value for key, value in row.values.items() if row.kind in ("val", "test")}
    kept = {key: tensor.clone() for key, tensor in job.model.state_dict().items()}
    numbers = {key: values[key] for key in values if key.startswith(("val/", "test/", "gap/"))}
    return numbers, kept, row.step


@pytest.mark.parametrize("model", [pytest.param("mlp", marks=pytest.mark.slow), "cnn"])
@pytest.mark.parametrize("norm", registry.names("norm"))
def test_weights_judged_again_give_the_numbers_of_the_training(norm: str, model: str) -> None:
    wanted = made(f"norm={norm}", f"model={model}", "dropout=0.1")
    if error := check_fit(wanted, wanted.shape, wanted.classes).error:
        pytest.skip(str(error))
    told, kept, step = trained(wanted)
    assert judged(wanted, kept, step, known={})[0] == told
