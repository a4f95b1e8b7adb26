"""The contract of schedules: each against its oracle in float64, and its bounds."""

from __future__ import annotations

import numpy as np
import pytest
from contracts.cases import oracle_of, own

from normbench.parts import registry

each_name = pytest.mark.parametrize("name", own("schedule"))
each_length = pytest.mark.parametrize("steps", [1, 2, 3, 10, 97, 1000])
each_warmup = pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])


def rates(name, steps, warmup, peak=1.0):
    rate = registry.find("schedule", name)().over(steps, peak, warmup)
    return np.array([rate(step) for step in range(steps)])


@each_name
@each_length
@each_warmup
def test_every_rate_is_that_of_the_oracle(name, steps, warmup):
    expected = oracle_of("schedule", name).rates(steps, round(warmup * steps))
    np.testing.assert_allclose(rates(name, steps, warmup), expected, rtol=1e-9, atol=1e-12)


@each_name
@each_length
@each_warmup
def test_every_rate_is_above_zero_and_at_most_the_peak(name, steps, warmup):
    found = rates(name, steps, warmup, 0.7)
    assert ((found > 0) & (found <= 0.7 * (1 + 1e-12))).all()


@each_name
def test_the_warm_up_rises(name):
    found = rates(name, 100, 0.3)
    assert (np.diff(found[:30]) > 0).all()
