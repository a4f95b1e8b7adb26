"""The contract of every initializer: moments, bounds, signals through 20 layers, own generators.

An oracle file holds
    OPTIONS                         option sets to run
    REFUSED                         (options, text of the error); may be left out
    spread(shape, act, **options)   standard deviation of a weight of `shape` (out, in, ...), and
                                    the bound of a uniform distribution, None for a normal one
    bias_spread(shape)              the same for the bias; left out where biases are zero
    exact(weight, act, **options)   asserts what holds without chance; may be left out

Each group of a grouped convolution is a layer of its own: all of this holds for its weights alone.

Statistics are in float64 over fixed draws. A limit is five standard errors of the statistic, so
a right initializer would fail one check in 1.7 million draws.
"""

import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from contracts.cases import create, oracle_of, own
from scipy import stats
from torch import nn

from normbench.errors import InitError
from normbench.inits._base import initialize
from normbench.models.cnn import CNN
from normbench.norms._units import UnitBuilder
from normbench.parts import registry

NAMES = own("init")
ORACLES = {name: oracle_of("init", name) for name in NAMES}
CASES = [
    pytest.param(name, options, id=f"{name}-{options}")
    for name, oracle in ORACLES.items()
    for options in oracle.OPTIONS
]
LAYERS = {
    "linear": lambda: nn.Linear(150, 180),
    "conv1d": lambda: nn.Conv1d(40, 90, 5),
    "conv2d": lambda: nn.Conv2d(30, 64, 3, stride=2, padding=1),
    "grouped": lambda: nn.Conv2d(60, 96, 3, groups=2),
    "wide": lambda: nn.Conv2d(16, 400, 1),
}
ERRORS = 5  # standard errors
DEPTH, WIDTH, NETS = 20, 160, 8


def make(name, options=None):
    return registry.find("init", name)(**(options or {}))


def filled(model, name, options=None, act="relu", seed=0):
    """`model` in float64, its weights and biases set to NaN and then initialized."""
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    initialize(model, make(name, options), act, seed)
    return model


def check_spread(values, std, bound):
    """Mean, variance, bound and shape of a sample of independent values."""
    values, n = values.detach().numpy().ravel(), values.numel()
    excess = 0.8 if bound else 2.0  # kurtosis - 1 of the uniform and the normal distribution
    assert abs(values.mean()) <= ERRORS * std / math.sqrt(n)
    assert abs(np.mean(values**2) / std**2 - 1) <= ERRORS * math.sqrt(excess / n)
    if bound:
        assert np.abs(values).max() <= bound
        assert stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-6
    else:
        assert stats.kstest(values, stats.norm(0, std).cdf).pvalue > 1e-6


@pytest.mark.parametrize(
    ("kind", "act"),
    [(kind, "relu") for kind in LAYERS]
    + [("linear", act) for act in ("tanh", "leaky_relu", "identity")],
)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_weights_have_the_moments_and_bounds_of_the_paper(name, options, kind, act):
    oracle = ORACLES[name]
    layer = filled(LAYERS[kind](), name, options, act)
    parts = layer.weight.detach().chunk(getattr(layer, "groups", 1))
    std, bound = oracle.spread(tuple(parts[0].shape), act, **options)
    if std:
        check_spread(layer.weight, std, bound)
    if hasattr(oracle, "exact"):
        for part in parts:
            oracle.exact(part.numpy(), act, **options)


WIDE = 96  # channels, in groups of several widths


@pytest.mark.parametrize("groups", [1, 2, WIDE])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_each_group_of_a_convolution_passes_on_the_variance_of_a_layer_of_its_own(
    name, options, groups
):
    """y = sum of fan_in products of w and unit noise: E[y^2] = fan_in Var[w] of the group alone."""
    size = (WIDE // groups, WIDE // groups, 3, 3)
    layer = filled(nn.Conv2d(WIDE, WIDE, 3, groups=groups, bias=False), name, options)
    noise = np.random.default_rng(0).standard_normal((400, WIDE, 3, 3))
    weight = layer.weight.detach().numpy().reshape(groups, *size)
    inputs = noise.reshape(400, groups, -1)
    outputs = np.einsum("ngi,goi->ngo", inputs, weight.reshape(groups, size[0], -1))
    torch.testing.assert_close(
        layer(torch.from_numpy(noise)).flatten(), torch.tensor(outputs.ravel())
    )
    taps = math.prod(size[1:])
    if hasattr(ORACLES[name], "second_moment"):  # where weights are neither drawn alike nor zero
        expected = ORACLES[name].second_moment(size, "relu", **options)
    else:
        expected = taps * ORACLES[name].spread(size, "relu", **options)[0] ** 2
    # Standard error: of the weights' mean square, and of the mean over 400 inputs of a group.
    error = math.sqrt(2 / (WIDE * taps) + 2 / 400)
    assert abs((outputs**2).mean() - expected) <= ERRORS * error * expected


def test_depthwise_xavier_has_the_deviation_of_nine_inputs_and_nine_outputs():
    layer = filled(nn.Conv2d(960, 960, 3, groups=960), "xavier_normal")
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 18), rel=0.03)
    theirs = filled(nn.Conv2d(960, 960, 3, groups=960), "xavier_normal", {"groups": "torch"})
    assert theirs.weight.std().item() == pytest.approx(math.sqrt(2 / (9 + 9 * 960)), rel=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_all_groups_are_one_layer_where_torch_is_asked_for(name):
    grouped = filled(nn.Conv2d(8, 8, 3, groups=4), name, {"groups": "torch"})
    whole = filled(nn.Conv2d(2, 8, 3), name)
    assert torch.equal(grouped.weight, whole.weight)


@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_has_the_gain_of_no_activation(name):
    head = UnitBuilder(create("none")).head(40, 10)
    net = filled(nn.Sequential(OrderedDict(head=head)), name, act="relu")
    plain = filled(nn.Sequential(OrderedDict(head=nn.Linear(40, 10))), name, act="identity")
    factor = make(name).factors(net).get(net.head, 1)
    assert torch.equal(net.head.weight, plain.head.weight * factor)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_biases_are_zero_unless_the_oracle_says_otherwise(name, kind):
    seeds = range(30)
    layers = [filled(LAYERS[kind](), name, seed=seed) for seed in seeds]
    biases = torch.stack([layer.bias.detach() for layer in layers])
    if hasattr(ORACLES[name], "bias_spread"):
        check_spread(biases, *ORACLES[name].bias_spread(tuple(layers[0].weight.shape)))
    else:
        assert not biases.any()


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [(name, *each) for name, oracle in ORACLES.items() for each in getattr(oracle, "REFUSED", [])],
)
def test_bad_options_are_refused_by_name(name, options, text):
    with pytest.raises(InitError, match=text):
        make(name, options)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_default_is_distributed_as_the_layers_of_torch(kind, parameter):
    torch.manual_seed(0)
    theirs = torch.cat([getattr(LAYERS[kind](), parameter).detach().ravel() for _ in range(20)])
    ours = torch.cat(
        [getattr(filled(LAYERS[kind](), "default", seed=k), parameter).ravel() for k in range(20)]
    )
    assert stats.ks_2samp(ours.detach().numpy(), theirs.numpy()).pvalue > 1e-6


def deep(name, options, act, seed):
    """Mean squares of the inputs of the first and after each of 20 dense layers, as logarithms."""
    layers = [nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)]
    filled(nn.Sequential(*layers), name, options, act, seed)
    function = {"identity": lambda x: x, "relu": torch.relu, "tanh": torch.tanh}[act]
    x = torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(seed)).double()
    squares = []
    with torch.no_grad():
        for layer in layers:
            x = layer(x)
            squares.append(x.square().mean().item())
            x = function(x)
    return np.log(squares)


def mean_field(act, variance, of_bias):
    """Log variance of the pre-activations of each layer in the limit of infinite width.

    q -> width * Var[w] * E[f(sqrt(q) z)^2] + Var[b], z ~ N(0, 1), by Gauss-Hermite quadrature.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    function = {"identity": lambda x: x, "relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}[act]
    q = [WIDTH * variance + of_bias]
    for _ in range(DEPTH - 1):
        second = weights @ function(math.sqrt(q[-1]) * nodes) ** 2 / weights.sum()
        q.append(WIDTH * variance * second + of_bias)
    return np.log(q)


PROPAGATED = [
    (name, options, act)
    for name, options in [
        ("default", {}),
        ("normal", {"std": 0.05}),
        ("xavier_uniform", {}),
        ("xavier_normal", {}),
        ("kaiming_uniform", {}),
        ("kaiming_normal", {}),
        ("orthogonal", {}),
        ("lecun_normal", {}),
        ("kaiming_misquoted", {}),
        ("delta_orthogonal", {}),
        ("lsuv", {}),
    ]
    for act in ("identity", "relu", "tanh")
]


@pytest.mark.parametrize(("name", "options", "act"), PROPAGATED)
def test_variance_goes_through_20_layers_as_derived(name, options, act):
    shape = (WIDTH, WIDTH)
    std, _ = ORACLES[name].spread(shape, act, **options)
    of_bias, _ = getattr(ORACLES[name], "bias_spread", lambda shape: (0.0, None))(shape)
    measured = np.array([deep(name, options, act, seed) for seed in range(NETS)])
    error = measured.std(axis=0, ddof=1) / math.sqrt(NETS)
    # The mean of logs is below the log of the mean by half the variance of the logs, which grows
    # by 2 / width per linear and 5 / width per relu layer.
    finite = np.arange(1, DEPTH + 1) * 5 / 2 / WIDTH
    expected = mean_field(act, std**2, of_bias**2)
    assert (np.abs(measured.mean(axis=0) - expected) <= ERRORS * error + finite).all()


@pytest.mark.parametrize("name", ["kaiming_normal", "kaiming_uniform"])
def test_kaiming_keeps_variance_through_relu_layers_where_xavier_halves_it(name):
    kept = np.mean([deep(name, {}, "relu", seed)[-1] for seed in range(5)])
    halved = np.mean([deep("xavier_normal", {}, "relu", seed)[-1] for seed in range(5)])
    assert abs(kept - math.log(2)) < 1
    assert abs(halved + 19 * math.log(2)) < 1


@pytest.mark.parametrize("name", ["kaiming_normal", "kaiming_uniform"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_each_kaiming_mode_keeps_its_direction_between_unequal_widths(name, mode):
    layer = filled(nn.Linear(1000, 250, bias=False), name, {"mode": mode}, "identity")
    forward = layer(torch.randn(500, 1000, generator=torch.Generator().manual_seed(0)).double())
    upstream = torch.randn(500, 250, generator=torch.Generator().manual_seed(1)).double()
    ratios = {
        "fan_in": forward.square().mean().item(),
        "fan_out": (upstream @ layer.weight).square().mean().item(),
    }
    assert ratios[mode] == pytest.approx(1, abs=0.05)
    other = ratios["fan_out" if mode == "fan_in" else "fan_in"]
    assert abs(math.log(other)) == pytest.approx(math.log(4), abs=0.1)


def weights(model):
    return {path: value for path, value in model.state_dict().items() if path.endswith("weight")}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_weights_and_global_state_plays_no_part(name):
    torch.manual_seed(1)
    first = filled(LAYERS["linear"](), name, seed=3)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    layer = nn.utils.skip_init(nn.Linear, 150, 180)
    again = filled(layer, name, seed=3)
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(first.bias, again.bias)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_and_another_path_give_other_weights_unless_nothing_is_random(name):
    def two(seed):
        return filled(nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9)), name, seed=seed)

    random = registry.find("init", name).random
    assert torch.equal(two(0)[0].weight, two(1)[0].weight) is not random
    assert torch.equal(two(0)[0].weight, two(0)[1].weight) is not random


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_more_does_not_shift_the_draws_of_others(name):
    def net(*more):
        layers = [("one", nn.Linear(9, 9)), *more, ("two", nn.Conv2d(3, 5, 3))]
        return filled(nn.Sequential(OrderedDict(layers)), name)

    plain = net()
    longer = net(("extra", nn.Linear(9, 9)), ("norm", nn.BatchNorm2d(9)))
    for path, value in plain.state_dict().items():
        assert torch.equal(value, longer.state_dict()[path])


@pytest.mark.parametrize("name", NAMES)
def test_norm_and_bias_do_not_shift_the_draws_of_weights(name):
    def net(norm, bias):
        model = CNN().build(UnitBuilder(create(norm), bias=bias), (1, 8, 8), 10)
        initialize(model, make(name), "relu", 0)
        return {
            path: module.weight
            for path, module in model.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
        }

    plain = net("none", "off")
    for other in (net("none", "on"), net("gn", "auto")):
        assert plain.keys() == other.keys()
        assert all(torch.equal(plain[path], other[path]) for path in plain)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_norms_stay(name):
    model = nn.Sequential(nn.Linear(9, 9), nn.BatchNorm1d(9))
    initialize(model, make(name), "relu", 0)
    assert (model[1].weight == 1).all()
    assert (model[1].bias == 0).all()
