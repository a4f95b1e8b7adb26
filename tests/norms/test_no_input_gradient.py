"""Channels-last inputs that need no gradient, in whose backward torch 2.11's group norm crashes."""

from __future__ import annotations

import pytest
import torch
from contracts.cases import Case, draw, own
from torch.nn.functional import group_norm

from normbench.errors import NormError

SHAPES = [(4, 8, 6, 6), (4, 8, 1, 1), (4, 8, 6, 1), (4, 1, 6, 6)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", own("norm"))
def test_learned_values_get_the_gradients_of_an_input_that_needs_one(name, shape):
    case = Case(name, {}, shape)
    if "linear" in case.kinds:
        pytest.skip("replaces the linear layer")
    x = draw(shape, 1).to(memory_format=torch.channels_last)
    found = []
    for needed in (False, True):
        try:
            module = case.module()
            y = module(x.clone(memory_format=torch.preserve_format).requires_grad_(needed))
        except NormError:
            pytest.skip("refuses the shape")
        if y.requires_grad:
            y.backward(draw(shape, 2))
        found.append([value.grad for value in module.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_the_gradients_of_gn_are_those_of_its_equation():
    x, up = draw((4, 8, 3, 3), 1), draw((4, 8, 3, 3), 2)
    module = Case("gn", {"groups": 2}, x.shape).module()
    module(x.to(memory_format=torch.channels_last)).backward(up)
    unit = group_norm(x, 2)
    torch.testing.assert_close(module.weight.grad, (unit * up).sum((0, 2, 3)))
    torch.testing.assert_close(module.bias.grad, up.sum((0, 2, 3)))
