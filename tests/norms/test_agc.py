"""What adaptive gradient clipping leaves of the gradients of a model."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from normbench.norms import create
from normbench.norms._units import UnitBuilder
from normbench.optimizers.sgd import SGD

FACTOR, EPS = 0.05, 1e-3


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = OrderedDict(
        conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), flat=nn.Flatten(), head=nn.Linear(72, 4)
    )
    model = nn.Sequential(layers).double()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * torch.rand_like(parameter) * 0.1
    return model


def clipped(model):
    """Gradients before and after, by path."""
    before = {path: each.grad.clone() for path, each in model.named_parameters()}
    create("agc", factor=FACTOR, eps=EPS).after_backward(model)
    return {path: (before[path], each.grad) for path, each in model.named_parameters()}


def norms(values):
    """Norm per row, of the whole where there are no rows."""
    return values.flatten(1).norm(dim=1) if values.dim() > 1 else values.norm()[None]


def test_gradients_are_no_longer_than_factor_times_their_parameters(model):
    changed = 0
    gradients = clipped(model)
    for path in ("conv.weight", "conv.bias", "norm.weight", "norm.bias"):
        before, after = gradients[path]
        parameter = model.get_parameter(path).detach()
        limits = FACTOR * norms(parameter).clamp(min=EPS)
        expected = torch.minimum(norms(before), limits)
        torch.testing.assert_close(norms(after), expected)
        changed += int((norms(before) > limits).sum())
    assert changed >= 3


def test_clipped_gradients_carry_no_graph(model):
    assert not any(after.requires_grad for _, after in clipped(model).values())


def test_directions_are_kept(model):
    before, after = clipped(model)["conv.weight"]
    cosines = torch.nn.functional.cosine_similarity(before.flatten(1), after.flatten(1))
    torch.testing.assert_close(cosines, torch.ones_like(cosines))


def test_short_gradients_are_not_touched(model):
    for parameter in model.parameters():
        parameter.grad *= 1e-4
    model.norm.bias.grad *= 1e-2  # starts at 0: its limit is factor * eps
    assert all(before.equal(after) for before, after in clipped(model).values())


def test_the_classifier_is_left_alone(model):
    model.head.weight.grad *= 1e6
    gradients = clipped(model)
    assert gradients["head.weight"][0].equal(gradients["head.weight"][1])
    assert gradients["head.bias"][0].equal(gradients["head.bias"][1])


def test_a_parameter_at_zero_can_move(model):
    model.norm.bias.grad.fill_(1.0)
    _, after = clipped(model)["norm.bias"]
    assert after.norm().item() == pytest.approx(FACTOR * EPS)


def test_a_gradient_that_is_not_finite_stays_so(model):
    model.conv.weight.grad[0, 0, 0, 0] = torch.nan
    model.conv.weight.grad[1, 0, 0, 0] = torch.inf
    _, after = clipped(model)["conv.weight"]
    assert not after[0].isfinite().all()
    assert not after[1].isfinite().all()
    assert after[2:].isfinite().all()


def test_parameters_without_a_gradient_are_passed_over(model):
    model.conv.weight.grad = None
    create("agc").after_backward(model)
    assert model.conv.weight.grad is None


def test_flat_gradients_are_clipped_in_place(model):
    stepper = SGD().bind(model)
    for each in model.parameters():
        each.grad.fill_(1.0)
    create("agc").after_backward(model)
    total = sum(each.grad.square().sum() for each in model.parameters()).sqrt()
    torch.testing.assert_close(stepper.grad.norm(), total)


def test_units_get_no_layer_from_it():
    unit = UnitBuilder(create("agc")).conv(3, 4, 3)
    assert [name for name, _ in unit.named_children()] == ["linear", "act"]
    assert unit.linear.bias is not None


def test_the_divisor_is_at_least_a_millionth():
    model = nn.Linear(2, 2, bias=False).double()
    model.weight.data.zero_()
    model.weight.grad = torch.tensor([[3e-7, 4e-7], [0, 0]], dtype=torch.float64)
    create("agc", factor=1e-4, eps=1e-3).after_backward(model)  # limit 1e-7: a tenth is left
    expected = torch.tensor([[3e-8, 4e-8], [0, 0]], dtype=torch.float64)
    torch.testing.assert_close(model.weight.grad, expected, rtol=1e-12, atol=0)
