"""The contract of activations: each against its oracle in float64, and its gain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contracts.cases import oracle_of, own

from normbench.parts import registry

each_name = pytest.mark.parametrize("name", own("activation"))


def made(name):
    return registry.find("activation", name)()


@each_name
@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 3, 2)])
def test_values_and_gradients_are_those_of_the_oracle(name, shape):
    oracle, act = oracle_of("activation", name), made(name).build(5, len(shape) - 2).double()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x.requires_grad_()
    y = act(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    np.testing.assert_allclose(y.detach(), oracle.forward(x.detach().numpy()), rtol=1e-12)
    np.testing.assert_allclose(slope, oracle.slope(x.detach().numpy()), rtol=1e-10, atol=1e-12)


@each_name
def test_shape_and_dtype_are_kept(name):
    x = torch.randn(3, 5, 2, 2, dtype=torch.bfloat16)
    y = made(name).build(5, 2)(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)


@each_name
def test_the_gain_is_that_of_the_oracle_and_of_torch(name):
    gain, oracle = made(name).gain, oracle_of("activation", name)
    assert gain == pytest.approx(oracle.GAIN, rel=1e-12)
    if known := getattr(oracle, "TORCH", name):
        assert gain == pytest.approx(torch.nn.init.calculate_gain(known), rel=1e-12)


@each_name
def test_a_state_dict_restores_it(name):
    one, other = (made(name).build(5, 2) for _ in range(2))
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.normal_()
    other.load_state_dict(one.state_dict())
    x = torch.randn(3, 5, 2, 2)
    assert torch.equal(one(x), other(x))
