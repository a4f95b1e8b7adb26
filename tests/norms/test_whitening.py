"""What is special to norms that decorrelate channels: dbn, iternorm."""

from __future__ import annotations

import pytest
import torch
from contracts.cases import draw, forward_backward

from normbench import norms

SHAPES = [(24, 6), (8, 6, 5), (4, 6, 4, 3), (1, 6, 5, 4), (40, 6, 2, 2)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def same(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def layer_of(name, shape, **options):
    return norms.create(name, **options).layer(shape[1], len(shape) - 2).double()


def correlated(shape, seed):
    """Inputs whose channels are mixtures of each other, with means."""
    mixture = draw((shape[1], shape[1]), seed + 50)
    return torch.einsum("cd,nd...->nc...", mixture, draw(shape, seed)) + 3


def columns(y):
    """(N, C, ...) as (C, N * positions)."""
    return y.transpose(0, 1).flatten(1)


def pair(one, other, x):
    """Outputs and input gradients of two layers."""
    return zip(forward_backward(one, x), forward_backward(other, x), strict=True)


@each_shape
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_dbn_gives_each_group_the_covariance_identity_and_mean_zero(shape, groups):
    layer = layer_of("dbn", shape, groups=groups, affine=False, eps=0.0)
    for part in columns(layer(correlated(shape, 1))).chunk(groups):
        same(part.mean(1), torch.zeros(len(part)).double())
        same(part @ part.T / part.shape[1], torch.eye(len(part)).double())


@each_shape
def test_dbn_is_the_whitening_nearest_to_the_input(shape):
    layer = layer_of("dbn", shape, affine=False, eps=0.0)
    x = correlated(shape, 1)
    centred = columns(x) - columns(x).mean(1, keepdim=True)
    cross = columns(layer(x)) @ centred.T
    same(cross, cross.T)  # a rotation would make it unsymmetric
    assert torch.linalg.eigvalsh(cross).min() > 0


@each_shape
def test_dbn_with_a_channel_per_group_trains_as_bn_without_affine(shape):
    one = layer_of("dbn", shape, groups=6, affine=False)
    for found, expected in pair(one, layer_of("bn", shape, affine=False), correlated(shape, 1)):
        same(found, expected)


@each_shape
@pytest.mark.parametrize("groups", [1, 3])
def test_iternorm_with_many_steps_is_dbn(shape, groups):
    one = layer_of("iternorm", shape, steps=30, groups=groups)
    other = layer_of("dbn", shape, groups=groups)
    for found, expected in pair(one, other, correlated(shape, 1)):
        same(found, expected, 1e-8)
    same(one.running_proj, other.running_proj)


def test_iternorm_comes_nearer_to_dbn_with_each_step():
    shape = (64, 6)
    x = correlated(shape, 1)
    whole = layer_of("dbn", shape)(x)
    distances = [
        float((layer_of("iternorm", shape, steps=k)(x) - whole).detach().norm())
        for k in range(1, 9)
    ]
    assert distances == sorted(distances, reverse=True)


@pytest.mark.parametrize("name", ["dbn", "iternorm"])
@pytest.mark.parametrize("sides", [(1, 1), (2, 1), (3, 4)])
def test_feature_maps_are_whitened_as_the_rows_of_all_their_positions(name, sides):
    shape = (10, 6, *sides)
    x = correlated(shape, 1)
    rows = columns(x).T
    found = layer_of(name, shape)(x)
    same(columns(found).T, layer_of(name, (60, 6))(rows))


@pytest.mark.parametrize("name", ["dbn", "iternorm"])
def test_gradients_hold_where_all_eigenvalues_are_equal(name):
    signs = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).double()
    assert (signs.T @ signs).equal(4 * torch.eye(3).double())
    layer = layer_of(name, (4, 3))
    assert torch.autograd.gradcheck(layer, signs.requires_grad_())


@pytest.mark.parametrize("name", ["dbn", "iternorm"])
def test_equal_channels_give_finite_values_in_single_precision(name):
    x = draw((32, 1), 1).float().expand(32, 8).clone() * 100
    y, grad = forward_backward(layer_of(name, (32, 8)).float(), x)
    assert y.isfinite().all() and grad.isfinite().all()


@pytest.mark.parametrize("name", ["dbn", "iternorm"])
def test_evaluation_repeats_the_training_output_when_momentum_is_1(name):
    shape = (20, 6, 3, 2)
    layer = layer_of(name, shape, momentum=1, groups=2)
    x = correlated(shape, 1)
    same(layer(x), layer.eval()(x))
