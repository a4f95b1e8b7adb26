"""The learning rate over the steps, worked out by hand and held against torch's schedulers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from normbench.parts import registry


def rates(kind: str, steps: int, warmup: float = 0.0, peak: float = 1.0) -> list[float]:
    schedule = registry.find("schedule", kind)().over(steps, peak, warmup)
    return [schedule(step) for step in range(steps)]


def of_torch(make: Callable[[Any], Any], steps: int, peak: float = 1.0) -> list[float]:
    """The learning rates that one of torch's schedulers sets."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(found) < steps:
            scheduler.step()
    return found


def close(values: list[float]) -> Any:
    return pytest.approx(values, rel=1e-9, abs=1e-15)


def test_warm_up_is_linear_then_cosine_falls_to_zero() -> None:
    found = rates("cosine", 100, 0.1)
    assert found[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert found[10] == 1.0
    assert found[55] == pytest.approx(0.5)
    assert found[99] == pytest.approx((1 + math.cos(math.pi * 89 / 90)) / 2)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "step"])
def test_the_warm_up_is_the_same_for_every_fall(kind: str) -> None:
    assert rates(kind, 20, 0.25)[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_step_divides_by_ten_twice() -> None:
    found = rates("step", 100)
    assert [found[k] for k in (0, 49, 50, 74, 75, 99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


def test_constant_is_constant() -> None:
    assert set(rates("constant", 10, peak=0.5)) == {0.5}


def test_linear_falls_by_the_same_amount_each_step() -> None:
    assert rates("linear", 10, 0.2, peak=0.8)[2:] == pytest.approx(
        [0.1 * k for k in range(8, 0, -1)]
    )


def test_cosine_is_that_of_torch() -> None:
    expected = of_torch(lambda each: lr_scheduler.CosineAnnealingLR(each, T_max=40), 40, 0.3)
    assert rates("cosine", 40, peak=0.3) == close(expected)


def test_linear_is_that_of_torch() -> None:
    expected = of_torch(lambda each: lr_scheduler.LinearLR(each, 1.0, 0.0, 40), 40, 0.3)
    assert rates("linear", 40, peak=0.3) == close(expected)


def test_step_is_that_of_torch() -> None:
    expected = of_torch(lambda each: lr_scheduler.MultiStepLR(each, [20, 30], 0.1), 40, 0.3)
    assert rates("step", 40, peak=0.3) == close(expected)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3, 0.75])
def test_onecycle_is_that_of_torch(warmup: float) -> None:
    expected = of_torch(
        lambda each: lr_scheduler.OneCycleLR(
            each, max_lr=0.3, total_steps=40, pct_start=warmup, cycle_momentum=False
        ),
        40,
    )
    assert rates("onecycle", 40, warmup, 0.3) == close(expected)


def test_onecycle_rises_from_a_25th_to_the_peak_and_falls_to_almost_nothing() -> None:
    found = rates("onecycle", 101, 0.5)
    assert found[0] == pytest.approx(1 / 25)
    assert found[49] == max(found) == 1.0
    assert found[100] == pytest.approx(1 / 250_000)
    assert found[:50] == sorted(found[:50])
    assert found[49:] == sorted(found[49:], reverse=True)


def test_onecycle_without_a_warm_up_only_falls() -> None:
    found = rates("onecycle", 10)
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx((1 + math.cos(math.pi / 10)) / 2, rel=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 97])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", registry.names("schedule"))
def test_every_rate_is_above_zero_and_at_most_the_peak(
    kind: str, warmup: float, steps: int
) -> None:
    found = rates(kind, steps, warmup, 0.7)
    assert all(0 < rate <= 0.7 * (1 + 1e-12) for rate in found)
