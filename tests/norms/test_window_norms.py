"""What is special to norms that remember batches: cbn, cmbn, mabn."""

from __future__ import annotations

import copy

import pytest
import torch
from contracts.cases import create, draw, forward_backward
from torch import nn

from normbench import norms
from normbench.errors import NormError
from normbench.norms._units import UnitBuilder

LAYERS = {
    "linear": (lambda: nn.Linear(7, 5, bias=False), (6, 7)),
    "conv": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), (3, 3, 6, 5)),
    "groups": (lambda: nn.Conv2d(4, 6, 2, groups=2, dilation=2, bias=False), (2, 4, 5, 4)),
}
each_layer = pytest.mark.parametrize("kind", LAYERS)


def same(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def made(kind, **options):
    """A linear layer, a cbn in its place with the same weights, and the shape of its inputs."""
    make, shape = LAYERS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layer = make().double()
    joined = create("cbn", **options).linear(copy.deepcopy(layer)).double()
    return layer, joined, shape


def batch_norm(channels, dims, **options):
    return norms.create("bn", **options).layer(channels, dims).double()


def per_channel(z):
    """E[z] and E[z^2]."""
    rows = z.transpose(0, 1).flatten(1)
    return rows.mean(1), rows.square().mean(1)


# ---- cbn ----


def test_the_state_of_cbn_has_the_specified_names_and_shapes():
    layer = create("cbn").linear(nn.Conv2d(4, 6, 3, groups=2))
    shapes = {key: tuple(value.shape) for key, value in layer.state_dict().items()}
    weight = (6, 2, 3, 3)
    assert shapes == {
        "weight": weight,
        **{f"norm.{name}": (6,) for name in ("weight", "bias", "running_mean", "running_var")},
        "norm.steps": (),
        **{f"window_{name}": (3, 6) for name in ("mean", "second")},
        **{f"window_{name}": (3, *weight) for name in ("dmean", "dsecond", "past")},
        "filled": (),
    }


@each_layer
def test_cbn_with_a_window_of_one_is_bn(kind):
    layer, joined, shape = made(kind, window=1)
    plain = nn.Sequential(layer, batch_norm(layer.weight.shape[0], len(shape) - 2))
    for t in range(3):
        for module in (joined, plain):
            module.train()
        found, expected = (forward_backward(each, draw(shape, t)) for each in (joined, plain))
        for one, other in zip(found, expected, strict=True):
            same(one, other)
        same(joined.weight.grad, layer.weight.grad)
        same(joined.norm.running_mean, plain[1].running_mean)
        same(joined.norm.running_var, plain[1].running_var)
        same(joined.eval()(draw(shape, 9)), plain.eval()(draw(shape, 9)))


@each_layer
def test_cbn_on_the_same_batch_with_frozen_weights_is_bn(kind):
    layer, joined, shape = made(kind)
    plain = nn.Sequential(layer, batch_norm(layer.weight.shape[0], len(shape) - 2))
    for _ in range(6):
        same(joined(draw(shape, 1)), plain(draw(shape, 1)))


@each_layer
def test_cbn_with_frozen_weights_takes_the_statistics_of_its_last_batches_joined(kind):
    layer, joined, shape = made(kind, window=3, affine=False)
    plain = batch_norm(layer.weight.shape[0], len(shape) - 2, affine=False)
    batches = [draw(shape, t) for t in range(5)]
    for t, x in enumerate(batches):
        last = torch.cat([x, *batches[max(0, t - 2) : t]])
        same(joined(x), plain(layer(last))[: len(x)])
        assert int(joined.filled) == min(t + 1, 2)


@each_layer
def test_the_slopes_of_cbn_agree_with_central_differences(kind):
    layer, joined, shape = made(kind)
    x, step = draw(shape, 1), 1e-5
    joined(x)
    weight = layer.weight.data
    for index in range(weight[0].numel()):
        moments = []
        for change in (step, -step):
            moved = weight.clone()
            moved.flatten(1)[:, index] += change
            layer.weight.data = moved
            moments.append(per_channel(layer(x).detach()))
        slopes = [(up - down) / (2 * step) for up, down in zip(*moments, strict=True)]
        same(joined.window_dmean[0].flatten(1)[:, index], slopes[0], 1e-8)
        same(joined.window_dsecond[0].flatten(1)[:, index], slopes[1], 1e-8)


@each_layer
def test_cbn_moves_means_exactly_and_second_moments_to_first_order(kind):
    errors = [moved_errors(kind, size) for size in (0.1, 0.05)]
    assert max(float(mean.max()) for mean, _ in errors) < 1e-11
    ratio = errors[0][1] / errors[1][1]
    assert (ratio - 4).abs().max() < 1e-4


def moved_errors(kind, size):
    """How far moments moved over a weight step are from those that the new weights give."""
    layer, joined, shape = made(kind, window=2, affine=False, eps=0.0)
    old, new = draw(shape, 1), draw(shape, 2)
    joined(old)
    with torch.no_grad():
        weight = layer.weight + size * draw(tuple(layer.weight.shape), 5)
        layer.weight.copy_(weight)
        joined.weight.copy_(weight)
        z, y = layer(new), joined(new)
        # y = (z - M) / sqrt(V) per channel: two of its points tell M and V
        z, y = (each.transpose(0, 1).flatten(1) for each in (z, y))
        low, high = z.argmin(1, keepdim=True), z.argmax(1, keepdim=True)
        rise = y.gather(1, high) - y.gather(1, low)
        deviation = ((z.gather(1, high) - z.gather(1, low)) / rise).squeeze(1)
        mean = (z.gather(1, low) - y.gather(1, low) * deviation.unsqueeze(1)).squeeze(1)
        own, true = per_channel(layer(new)), per_channel(layer(old))
        moved = 2 * mean - own[0], 2 * (deviation**2 + mean**2) - own[1]
    return [(one - other).abs() for one, other in zip(moved, true, strict=True)]


def test_cbn_stores_nothing_and_is_bn_during_the_burn_in():
    layer, joined, shape = made("linear", burnin=2)
    plain = nn.Sequential(layer, batch_norm(5, 0))
    filled = []
    for t in range(7):
        y = joined(draw(shape, t))
        filled.append(int(joined.filled))
        if t <= 2:
            same(y, plain(draw(shape, t)))
    assert filled == [0, 0, 1, 2, 3, 3, 3]
    assert int(joined.norm.steps) == 7


def test_cbn_stands_before_the_activation_only_and_not_in_recurrent_cells():
    norm = create("cbn")
    for place in ("post", "preact"):
        with pytest.raises(NormError, match=f"cannot stand at placement={place}"):
            UnitBuilder(norm, placement=place)
    with pytest.raises(NormError, match="follows one linear layer"):
        norm.over_time(4, 3)


def test_cbn_leaves_out_the_bias_of_the_layer():
    assert "bias" not in create("cbn").linear(nn.Linear(3, 4)).state_dict()


# ---- cmbn ----


def test_the_last_micro_batch_of_cmbn_is_normed_by_the_statistics_of_the_whole_batch():
    layer = norms.create("cmbn", window=4).layer(5, 2).double()
    plain = batch_norm(5, 2)
    for step in range(2):
        parts = [draw((3, 5, 4, 2), 10 * step + j) for j in range(4)]
        outputs = [layer(part) for part in parts]
        whole = plain(torch.cat(parts))
        same(outputs[-1], whole[-3:])
        same(outputs[0], batch_norm(5, 2)(parts[0]))
        same(layer.running_mean, plain.running_mean)


@pytest.mark.parametrize("shape", [(6, 5), (3, 5, 4), (2, 5, 3, 2)])
def test_cmbn_with_a_window_of_one_trains_as_bn(shape):
    layer = norms.create("cmbn", window=1, momentum=1).layer(5, len(shape) - 2).double()
    plain = batch_norm(5, len(shape) - 2, momentum=1)
    count = draw(shape, 0).numel() // 5
    for t in range(3):
        found, expected = (forward_backward(each, draw(shape, t)) for each in (layer, plain))
        for one, other in zip(found, expected, strict=True):
            same(one, other)
        same(layer.weight.grad, plain.weight.grad)
        same(layer.running_var, plain.running_var * (count - 1) / count)


def test_cmbn_keeps_its_running_statistics_until_a_window_is_full():
    layer = norms.create("cmbn", window=3).layer(4, 0)
    seen = []
    for t in range(4):
        layer(draw((6, 4), t).float())
        seen.append((int(layer.index), bool(layer.running_mean.any())))
    assert seen == [(1, False), (2, False), (0, True), (1, True)]


def test_an_optimizer_step_in_mid_window_starts_a_new_one():
    norm = norms.create("cmbn", window=3)
    layer = norm.layer(4, 0).double()
    x = draw((6, 4), 1)
    expected = layer(x)
    norm.after_step(nn.Sequential(layer))
    assert int(layer.index) == 0
    assert layer(x).equal(expected)


def test_the_window_of_cmbn_is_the_accumulation_of_the_run_or_divides_it():
    assert norms.create("cmbn", window=4).resolve(16).window == 4
    assert norms.create("cmbn", window=None).resolve(3).window == 3
    assert norms.create("cmbn").resolve(1).window == 1
    with pytest.raises(NormError, match="norm.window=4: .* micro-batches per step, accumulate=2"):
        norms.create("cmbn", window=4).resolve(2)
    chain = norms.create("ws+cmbn", cmbn={"window": None})
    assert chain.resolve(5).members[1].window == 5
    with pytest.raises(NormError, match="norm.cmbn.window=4"):
        norms.create("ws+cmbn", cmbn={"window": 4}).resolve(2)


def test_cmbn_with_a_window_of_one_warns_that_it_is_bn():
    (warning,) = norms.create("cmbn", window=1).warnings(nn.Identity())
    assert str(warning) == (
        "normbench: error: accumulate=1: cmbn with one micro-batch per step trains as bn does\n"
        "  try: accumulate=4"
    )
    assert norms.create("cmbn", window=2).warnings(nn.Identity()) == []


# ---- mabn ----


@pytest.mark.parametrize("shape", [(6, 5), (3, 5, 4), (2, 5, 3, 2)])
def test_mabn_is_a_plain_root_mean_square_in_its_first_forwards(shape):
    layer = norms.create("mabn", window=2, warmup=6).layer(5, len(shape) - 2).double()
    axes = (0, *range(2, len(shape)))
    for t in range(5):
        found = forward_backward(layer, draw(shape, t))
        expected = forward_backward(
            lambda x: x / (x.square().mean(axes, True) + 1e-5).sqrt(), draw(shape, t)
        )
        for one, other in zip(found, expected, strict=True):
            same(one, other)


def test_mabn_leaves_the_plain_phase_after_window_and_warmup():
    layer = norms.create("mabn", window=2, warmup=4, affine=False, eps=0.0).layer(3, 0).double()
    plain = []
    for t in range(6):
        x = draw((8, 3), t)
        plain.append(torch.allclose(layer(x), x / x.square().mean(0).sqrt()))
    assert plain == [True, True, True, False, False, False]


@pytest.mark.parametrize(("scale", "ratio"), [(100.0, 5.0), (0.001, 0.2), (1.5, None)])
def test_mabn_corrects_towards_the_running_value_within_limits_after_1000_forwards(scale, ratio):
    layer = norms.create("mabn", window=1, warmup=0, eps=0.0).layer(3, 0).double()
    x = scale * draw((8, 3), 1)
    size = x.square().mean(0).sqrt()
    expected = x / size * (size if ratio is None else ratio)  # the running value is 1
    layer.steps.fill_(999)
    same(copy.deepcopy(layer)(x), x / size)
    layer.steps.fill_(1000)
    same(layer(x), expected)


def test_mabn_adds_eps_to_both_sides_of_its_ratio():
    layer = norms.create("mabn", window=1, warmup=0, eps=0.5).layer(3, 0).double()
    layer.steps.fill_(1000)
    x = draw((8, 3), 1)
    same(layer(x), x / 1.5**0.5)  # the running value is 1


def test_the_gradient_of_mabn_takes_the_mean_of_its_backward_window():
    layer = norms.create("mabn", window=2, warmup=0, affine=False, eps=0.0).layer(1, 0).double()
    rows = [
        torch.tensor([[3.0], [1.0]]),
        torch.tensor([[1.0], [2.0]]),
        torch.tensor([[2.0], [4.0]]),
    ]
    ups = [torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0]])]
    for x, up in zip(rows[:2], ups[:2], strict=True):
        forward_backward(layer, x.double(), up.double())
    _, grad = forward_backward(layer, rows[2].double(), ups[2].double())
    # E[x^2] = 5, 2.5, 10; the third forward averages the last two
    root = 6.25**0.5
    second = 2 * 2 / 2.5**0.5 / 2  # E[g z] of the second step, by its own root
    third = (2 + 4) / root / 2
    expected = [(1 - x / root * (second + third) / 2) / root for x in (2, 4)]
    same(grad.flatten(), torch.tensor(expected, dtype=torch.float64))
    same(layer.past_gz.flatten(), torch.tensor([second, third], dtype=torch.float64))


def test_the_backward_window_of_mabn_changes_in_the_backward_pass():
    layer = norms.create("mabn").layer(3, 0)
    y = layer(draw((4, 3), 1).float().requires_grad_())
    assert layer.past_x2.any() and not layer.past_gz.any()
    y.sum().backward()
    assert layer.past_gz.any()


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 4), lambda: nn.Conv2d(2, 4, 3, stride=2)])
def test_mabn_centres_the_filters_of_the_layer_before_it(make):
    layer = make().double()
    centred = norms.create("mabn").linear(copy.deepcopy(layer))
    x = draw((5, 6) if isinstance(layer, nn.Linear) else (2, 2, 5, 6), 1)
    weight = layer.weight.detach()
    means = weight.flatten(1).mean(1).reshape(-1, *[1] * (weight.dim() - 1))
    layer.weight.data = weight - means
    same(centred(x), layer(x))
    same(centred(x + 3), centred(x))
    centred(x).square().sum().backward()
    same(centred.weight.grad.flatten(1).mean(1), torch.zeros(4).double())
    assert centred.state_dict().keys() == layer.state_dict().keys()


def test_mabn_without_centring_leaves_the_layer():
    layer = nn.Linear(6, 4)
    assert norms.create("mabn", centre=False).linear(layer) is layer
    with pytest.raises(NormError, match=r"norm.centre=true: weight \(4, 1\) would become 0"):
        norms.create("mabn").linear(nn.Linear(1, 4))


# ---- all three ----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [("cbn", {}), ("cmbn", {"window": 3}), ("mabn", {"window": 2, "warmup": 2})],
)
def test_compiled_training_keeps_the_gradients_of_what_comes_from_buffers(name, options):
    torch._dynamo.reset()
    norm = create(name, **options)
    eager = norm.linear(nn.Linear(5, 4, bias=False)) if name == "cbn" else norm.layer(5, 0)
    eager = eager.double()
    other = copy.deepcopy(eager)
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    for t in range(5):
        x = (1 + t) * draw((6, 5), t) + t
        for one, two in zip(forward_backward(compiled, x), forward_backward(eager, x), strict=True):
            same(one, two)
    for key, value in eager.state_dict().items():
        same(other.state_dict()[key], value)
