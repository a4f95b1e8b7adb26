"""What single norms with batch statistics promise beside their oracles and relations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from contracts.cases import create, default_dtype, draw
from torch import nn

PLACES = [(), (4,), (4, 3)]  # what follows (N, C)
FINAL = {"start": 0, "rmax_end": 0, "dmax_end": 0}


def layer(name: str, channels: int, dims: int, **options) -> nn.Module:
    with default_dtype(torch.float64):
        return create(name, **options).layer(channels, dims)


@pytest.mark.parametrize(
    ("t", "rmax", "dmax"),
    [
        *[(0, 1, 0), (5000, 1, 0), (15000, 11 / 7, 2.5)],
        *[(22500, 2, 4.375), (25000, 15 / 7, 5), (40000, 3, 5), (10**7, 3, 5)],
    ],
)
def test_the_limits_of_brn_rise_as_in_the_paper(t, rmax, dmax):
    made = layer("brn", 5, 0)
    made.steps.fill_(t)
    assert [each.item() for each in made.limits()] == pytest.approx([rmax, dmax], rel=1e-12)


@pytest.mark.parametrize(("t", "rmax", "dmax"), [(9, 1, 0), (10, 3, 5), (11, 3, 5)])
def test_an_end_that_is_not_after_the_start_means_the_final_limit_at_once(t, rmax, dmax):
    made = layer("brn", 5, 0, start=10, rmax_end=10, dmax_end=3)
    made.steps.fill_(t)
    assert [each.item() for each in made.limits()] == [rmax, dmax]


def test_brn_without_limits_normalizes_by_the_statistics_before_the_step():
    made = layer("brn", 5, 2, rmax=1e9, dmax=1e9, momentum=0.3, **FINAL)
    for t in range(3):
        x = 2 + draw((6, 5, 4, 3), t)
        expected = made.eval()(x)
        torch.testing.assert_close(made.train()(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("place", PLACES)
def test_two_values_per_channel_become_minus_and_plus_the_weight(place):
    made = layer("bn", 5, len(place), eps=0.0)
    with torch.no_grad():
        made.weight.copy_(draw((5,), 1))
        made.bias.copy_(draw((5,), 2))
    y = made(draw((2, 5, *[1 for _ in place]), 3)).reshape(2, 5)
    both = torch.stack([made.bias - made.weight.abs(), made.bias + made.weight.abs()])
    torch.testing.assert_close(y.sort(0).values, both)


@pytest.mark.parametrize("half", [1e-3, 0.1, 3.0])
def test_two_values_pass_a_gradient_only_where_they_nearly_meet(half):
    eps, weight, mean = 1e-5, 1.7, 0.4
    made = layer("bn", 1, 0, eps=eps)
    torch.nn.init.constant_(made.weight, weight)
    x = torch.tensor([[mean + half], [mean - half]], dtype=torch.float64, requires_grad=True)
    (made(x) * x.new_tensor([[0.9], [-0.2]])).sum().backward()
    # y = +-weight h / sqrt(h^2 + eps), h half of the difference
    expected = 1.1 / 2 * weight * eps / (half**2 + eps) ** 1.5
    assert x.grad.flatten().tolist() == pytest.approx([expected, -expected], rel=1e-9)


@pytest.mark.parametrize("place", PLACES)
def test_the_mean_of_each_channel_after_mean_is_the_bias(place):
    made = layer("mean", 5, len(place))
    with torch.no_grad():
        made.bias.copy_(draw((5,), 1))
    y = made(draw((6, 5, *place), 2))
    torch.testing.assert_close(y.mean((0, *range(2, y.dim()))), made.bias)


def test_the_gate_of_bin_is_clamped_after_a_step_and_not_in_the_forward():
    norm = create("bin")
    made = norm.layer(3, 2)
    with torch.no_grad():
        made.gate.copy_(torch.tensor([-0.5, 0.4, 1.5]))
    made(torch.randn(2, 3, 4, 4))
    assert made.gate.tolist() == pytest.approx([-0.5, 0.4, 1.5])
    norm.after_step(nn.Sequential(made))
    assert made.gate.tolist() == pytest.approx([0, 0.4, 1])


def trained(place: tuple[int, ...], **options) -> nn.Module:
    """An evalnorm after three batches of six."""
    made = layer("evalnorm", 5, len(place), **options)
    for t in range(3):
        made(2 + draw((6, 5, *place), t))
    return made


@pytest.mark.parametrize("place", PLACES)
def test_evalnorm_without_a_share_of_the_sample_is_bn_with_biased_variances(place):
    made, x = trained(place, alpha=0.0).eval(), draw((6, 5, *place), 9)
    other = layer("bn", 5, len(place))
    for t in range(3):
        other(2 + draw((6, 5, *place), t))
    count = x.numel() / 5
    start = 0.9**3  # of the first running variance, which is not scaled
    other.running_var.sub_(start).mul_((count - 1) / count).add_(start)
    torch.testing.assert_close(made(x), other.eval()(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("place", PLACES[1:])
def test_evalnorm_with_all_shares_of_the_sample_is_instance_norm(place):
    made, x = trained(place, alpha=1.0, beta=1.0).eval(), draw((6, 5, *place), 9)
    torch.testing.assert_close(made(x), F.instance_norm(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("place", PLACES[1:])
def test_evalnorm_repeats_the_training_output_of_a_batch_of_one(place):
    made, x = layer("evalnorm", 5, len(place), alpha=1.0), draw((1, 5, *place), 9)
    y = made(x)
    torch.testing.assert_close(made.eval()(x), y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("samples", [2, 8])
def test_the_fit_of_evalnorm_finds_one_over_the_batch_on_independent_samples(samples):
    made = layer("evalnorm", 32, 1, alpha="fit", momentum=0.01)
    for t in range(400):
        offset, spread = draw((samples, 32, 2), t)[..., :1], draw((samples, 32, 1), 1000 + t).exp()
        made(draw((samples, 32, 6), 2000 + t) * spread + offset)
    for sums in (made.alpha_sums, made.beta_sums):
        assert float(sums[0] / sums[1]) == pytest.approx(1 / samples, rel=0.1)


def test_evalnorm_remembers_the_largest_batch():
    made = layer("evalnorm", 5, 0)
    for samples in (3, 7, 4):
        made(draw((samples, 5), 0))
    assert made.batch == 7


@pytest.mark.parametrize("name", ["bn", "brn", "evalnorm"])
def test_chunks_update_the_statistics_in_order_with_their_part_of_the_momentum(name):
    options = {"norm_batch": 2, "momentum": 0.4}
    made, x = layer(name, 5, 0, **options), draw((6, 5), 1)
    made(x)
    expected = torch.zeros(5, dtype=torch.float64)
    for chunk in x.split(2):
        expected = expected * (1 - 0.4 / 3) + chunk.mean(0) * (0.4 / 3)
    torch.testing.assert_close(made.running_mean, expected)
