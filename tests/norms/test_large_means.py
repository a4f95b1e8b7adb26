"""Features whose mean is large against their deviation, in float32 against float64.

Norms that round the mean to float32, or multiply x before they subtract it as torch's kernels do,
state the bound BOUND |mean| / deviation of what a statistic is taken over; others lose nothing.
"""

from __future__ import annotations

import pytest
import torch
from contracts.cases import Case, draw

BOUND = 5e-7
MEANS = (0.0, 1e2, 1e3, 1e4, 1e5)
BOUNDED = (
    *("gn", "in", "ln", "pono", "switch", "bn", "ghostbn", "syncbn", "evalnorm", "bin", "mean"),
    *("iternorm", "dbn", "divisive", "evonorm_s0"),
)
EXACT = ("brn", "cmbn", "evonorm_b0")


def errors(name, mean, shape):
    """The largest error of the output for inputs of deviation 1, as a share where it is above 1."""
    case = Case(name, {"groups": 8} if name == "evonorm_s0" else {}, shape)
    x = (draw(shape, 3) + mean).float()
    y = case.module(dtype=torch.float32)(x)
    expected = case.oracle().train(x.double())
    error = (y.detach() - expected.detach()).abs().max()
    return float(error / expected.detach().abs().max().clamp_min(1))


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("name", BOUNDED)
def test_the_error_stays_below_what_the_norm_states(name, mean):
    assert errors(name, mean, (8, 16, 12, 12)) <= BOUND * mean + 2e-6


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("name", EXACT)
def test_norms_that_subtract_the_mean_first_lose_nothing(name, mean):
    assert errors(name, mean, (8, 16, 12, 12)) <= 5e-6
