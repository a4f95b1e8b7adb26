"""Features whose mean is large against their deviation, in float32 against float64.

Norms by torch's kernels, which multiply x before they subtract the mean, state the bound
BOUND |mean| / deviation of what a statistic is taken over; the others lose nothing.
"""

from __future__ import annotations

import pytest
import torch
from contracts.cases import Case, draw

BOUND = 5e-7
MEANS = (0.0, 1e2, 1e3, 1e4, 1e5)
BOUNDED = ("gn", "in", "ln", "pono", "switch", "bn", "ghostbn", "evalnorm", "bin", "mean")
EXACT = ("brn", "cmbn", "evonorm_b0")


def errors(name, mean, shape):
    """The largest error of the output for inputs of deviation 1."""
    case = Case(name, {}, shape)
    x = (draw(shape, 3) + mean).float()
    y = case.module(dtype=torch.float32)(x)
    expected = case.oracle().train(x.double())
    return float((y.detach() - expected.detach()).abs().max())


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("name", BOUNDED)
def test_the_error_of_a_norm_by_torchs_kernel_stays_below_what_it_states(name, mean):
    assert errors(name, mean, (8, 16, 12, 12)) <= BOUND * mean + 2e-6


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("name", EXACT)
def test_norms_that_subtract_the_mean_first_lose_nothing(name, mean):
    assert errors(name, mean, (8, 16, 12, 12)) <= 5e-6
