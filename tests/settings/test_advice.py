"""Settings that work, but are slow or without effect: each is told with a way out."""

from __future__ import annotations

import pytest

from normbench.errors import Mistake
from normbench.settings.advice import advice
from normbench.settings.compose import Grid, loader


def told(words: str) -> list[Mistake]:
    (cell,) = Grid(loader()).cells([*words.split(), "device=cpu"], False)
    assert cell.config
    return advice(cell.config)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            "batch=1 eval_stats=batch target=0.9",
            "eval_stats=batch: 11 validations take 5,000 forwards of 1 image each\n"
            "  try: eval_stats=running or eval_stats=dataset",
        ),
        (
            "batch=1 eval_stats=batch",
            "eval_stats=batch: the final weights are judged in 15,000 forwards of 1 image each\n"
            "  try: eval_stats=running or eval_stats=dataset",
        ),
        (
            "batch=4 eval_stats=batch norm=gn target=0.9",
            "eval_stats=batch: 11 validations take 1,250 forwards of 4 images each, and norm=gn "
            "has no running statistics\n  try: eval_stats=running or eval_stats=dataset",
        ),
        (
            "eval_every=0.001",
            "eval_every=0.001: 860 validations judge 78 times the images trained on\n"
            "  try: eval_every=null",
        ),
        (
            "eval_stats=dataset steps=10 target=0.9",
            "eval_stats=dataset: 11 validations look at 605,000 images, to train on 640\n"
            "  try: eval_stats=running",
        ),
        ("tune_lrs=[0.1,0.2]", "tune_lrs=[0.1,0.2]: has no effect with tune=none\n  try: tune=lr"),
        (
            "lr_rule=none lr_base_batch=32",
            "lr_base_batch=32: has no effect with lr_rule=none\n  try: lr_rule=linear",
        ),
        (
            "reshuffle=false steps=100",
            "reshuffle=false: has no effect in 100 steps: an epoch has 859\n  try: reshuffle=true",
        ),
        (
            "shifts=[invert,contrast*1]",
            "shifts=[contrast*1,invert]: contrast*1 changes no pixel\n  try: shifts=[invert]",
        ),
        (
            "optimizer=adam batch=2",
            "lr_rule=linear: makes steps of optimizer=adam 32 times smaller at batch=2\n"
            "  try: lr_rule=sqrt",
        ),
        (
            "norm.momentum=0.01 steps=60",
            "norm.momentum=0.01: leaves running statistics 55 % of their start after 60 steps\n"
            "  try: norm.momentum=0.1",
        ),
        (
            "target=0.1",
            "target=0.1: is not above chance, 0.1 for 10 classes\n  try: target=0.55",
        ),
    ],
)
def test_what_is_slow_or_without_effect_is_told(words: str, text: str) -> None:
    (mistake,) = told(words)
    assert mistake.text == text


@pytest.mark.parametrize("key", ["threads", "jobs"])
def test_more_than_the_cores_are_told(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normbench.runtime.machine.cores", lambda: 2)
    (mistake,) = told(f"{key}=3")
    assert mistake.text == (
        f"{key}=3: is more than the 2 cores of this machine, and slower\n  try: {key}=2"
    )
    assert told(f"{key}=2") == []


@pytest.mark.parametrize(
    "words",
    [
        "",
        "batch=2 norm=gn",
        "batch=8 eval_stats=batch",
        "batch=2 eval_stats=batch",
        "eval_stats=dataset steps=10",
        "eval_stats=dataset",
        "eval_stats=dataset steps=10 norm=gn",
        "steps=5 batch=2",
        "steps=100 eval_every=0.01",
        "reshuffle=false epochs=2",
        "target=0.9 shifts=[contrast*0.5]",
        "tune=lr tune_lrs=[0.1,0.2]",
        "lr_rule=sqrt lr_base_batch=32",
        "optimizer=adam batch=32",
        "norm.momentum=0.01",
        "norm.momentum=null steps=10",
        "optimizer=adam batch=2 tune=lr",
    ],
)
def test_usual_settings_are_not_commented_on(words: str) -> None:
    assert told(words) == []
