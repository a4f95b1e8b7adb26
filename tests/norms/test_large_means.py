"""Features whose mean is large against their deviation, in float32 against float64.

Norms that round the mean to float32, or multiply x before they subtract it as torch's kernels do,
state the bound BOUND |mean| / deviation of what a statistic is taken over; others lose nothing. The
bound is that of outputs, of gradients, and of evaluation by running statistics.
"""

from __future__ import annotations

import pytest
import torch
from contracts.cases import Case, draw
from torch import nn

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


def in_precision(name, mean, dtype):
    """The gradient of the input in training, and the output in evaluation after some steps."""
    case = Case(name, {"groups": 8} if name == "evonorm_s0" else {}, (8, 16, 12, 12))
    layer: nn.Module = case.module(dtype=dtype)
    x = (draw(case.shape, 3) + mean).float().to(dtype).requires_grad_()
    y = layer(x)
    (grad,) = torch.autograd.grad(y, x, draw(case.shape, 5).to(dtype))
    for _ in range(60):  # until the running statistics have come to the mean
        layer(x.detach())
    return grad.double(), layer.eval()(x).detach().double()


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("name", (*BOUNDED, *EXACT))
def test_gradients_and_evaluation_are_within_the_bound_too(name, mean):
    found, expected = (in_precision(name, mean, dtype) for dtype in (torch.float32, torch.float64))
    for one, other in zip(found, expected, strict=True):
        largest = other.abs().max().clamp_min(1)
        assert float((one - other).abs().max() / largest) <= BOUND * mean + 5e-6
