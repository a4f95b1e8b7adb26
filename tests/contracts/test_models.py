"""The contract of every model: its oracle's counts, shapes and function, and every norm in it.

An oracle file holds
    CASES       (options, input shape, parameters without a norm, {path: output shape}), 10 classes
    CHANNELS    how many channels are normalized, with default options
    BIASES      how many biases stand directly before a norm, with default options
    SUMMED      two linear layers that are summed before a norm; may be left out
    DROPS       how many layers of dropout there are; 0 where dropout has no place
    SMALL       an input shape, about the smallest
    REFUSED     (options, input shape, beginning of the error)
    forward(p, x, **options)    the logits without a norm, from the parameters by path
"""

import ast
import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from contracts.cases import create, default_dtype, oracle_of, own
from torch import nn

from normbench.errors import ModelError, PartError
from normbench.inits._base import LAYERS, initialize
from normbench.norms._base import PLACES
from normbench.norms._modes import calibrate
from normbench.norms._units import Dropout, Unit, UnitBuilder, apply
from normbench.parts import registry

NAMES = own("model")
NORMS = own("norm")
ORACLES = {name: oracle_of("model", name) for name in NAMES}
CASES = [
    pytest.param(name, *case, id=f"{name}-{case[0]}-{'x'.join(map(str, case[1]))}")
    for name, oracle in ORACLES.items()
    for case in oracle.CASES
]
KIND = {name: registry.facts("model", name).constants for name in NAMES}
FACTS = {name: registry.facts("norm", name).constants for name in NORMS}
RESIDUAL = [name for name in NAMES if KIND[name]["residual"]]
LIGHT = [name for name in NAMES if ORACLES[name].CASES[0][2] < 50_000]  # quick to compute
QUICK = [name for name in NAMES if ORACLES[name].CASES[0][2] < 300_000]
MANY = [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in NAMES]
BIASED = [name for name in NORMS if FACTS[name]["bias"]]
UNBIASED = [name for name in NORMS if not FACTS[name]["bias"]]


def build(name, norm="none", shape=None, options=None, **how):
    """A model with plain linear layers, not initialized."""
    model = registry.find("model", name)(**(options or {}))
    units = UnitBuilder(create(norm), **how)
    return model.build(units, shape or ORACLES[name].SMALL, 10)


def filled(model, seed=0):
    """`model` with random weights and biases."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, LAYERS):
                layer.weight.normal_(0, layer.weight[0].numel() ** -0.5, generator=generator)
                if layer.bias is not None:
                    layer.bias.normal_(0, 0.1, generator=generator)
    return model


def images(name, count=18, shape=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *(shape or ORACLES[name].SMALL), generator=generator)


def linears(model):
    return {path: each for path, each in model.named_modules() if isinstance(each, LAYERS)}


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(autouse=True)
def double():
    with default_dtype(torch.float64):
        yield


@pytest.mark.parametrize(("name", "options", "shape", "parameters", "outputs"), CASES)
def test_parameters_and_output_shapes_are_those_worked_out_by_hand(
    name, options, shape, parameters, outputs
):
    model = build(name, shape=shape, options=options)
    found = {}
    for path in outputs:
        model.get_submodule(path).register_forward_hook(
            lambda module, x, y, path=path: found.update({path: tuple(y.shape[1:])})
        )
    with torch.no_grad():
        y = filled(model)(torch.zeros(2, *shape))
    assert count(model) == parameters
    assert found == outputs
    assert y.shape == (2, 10)


@pytest.mark.parametrize(("name", "options", "shape", "parameters", "outputs"), CASES)
def test_without_a_norm_the_model_computes_its_oracle(name, options, shape, parameters, outputs):
    model = filled(build(name, shape=shape, options=options))
    x = images(name, 2, shape)
    weights = dict(model.named_parameters())
    y, expected = model(x), ORACLES[name].forward(weights, x, **options)
    torch.testing.assert_close(y, expected)
    for ours, theirs in zip(
        torch.autograd.grad(y.square().sum(), weights.values()),
        torch.autograd.grad(expected.square().sum(), weights.values()),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", [each for each in NORMS if FACTS[each]["parameters"] == "2 C"])
def test_a_norm_adds_two_parameters_for_each_normalized_channel(name, norm):
    if create(norm).layer(8, 2) is None:
        pytest.skip("its parameters stand in another place")
    try:
        on = count(build(name, norm, bias="on", placement="pre"))
        auto = count(build(name, norm, bias="auto", placement="pre"))
        plain = count(build(name))
    except PartError:
        pytest.skip("does not apply")
    assert on - plain == 2 * ORACLES[name].CHANNELS
    assert on - auto == (0 if FACTS[norm]["bias"] else ORACLES[name].BIASES)


@cache
def fitted(name, norm, placement="auto"):
    """Build, fill and train a model by one step; return the refusal where it does not apply."""
    try:
        with default_dtype(torch.float64):
            return train_mode(name, norm, placement)
    except PartError as refusal:
        return refusal


def train_mode(name, norm, placement):
    how = create(norm)
    model = filled(build(name, norm, placement=placement))
    apply(how, model)
    x, labels = images(name), torch.arange(18) % 10
    calibrate(model, x)
    loss = F.cross_entropy(model.train()(x), labels)
    loss.backward()
    how.after_backward(model)
    assert loss.isfinite()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
    assert any(bool(parameter.grad.any()) for parameter in model.parameters())
    torch.optim.SGD(model.parameters(), 1e-4).step()
    how.after_step(model)
    with torch.no_grad():
        assert model.eval()(x[:1]).isfinite().all()
    return None


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_trains_in_the_model_or_is_refused_clearly(name, norm):
    refusal = fitted(name, norm)
    if refusal:
        assert "  try: " in str(refusal)
        assert len(str(refusal)) < 400


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_fits_at_least_half_of_the_convolutional_models(norm):
    models = [name for name in QUICK if KIND[name]["spatial"]]
    assert sum(fitted(name, norm) is None for name in models) >= len(models) / 2


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("placement", PLACES)
def test_a_residual_net_trains_in_each_place_that_a_norm_allows(norm, placement):
    smallest = min(RESIDUAL, key=lambda name: ORACLES[name].CHANNELS)
    refusal = fitted(smallest, norm, placement)
    if placement in FACTS[norm]["places"]:
        assert refusal is None or str(refusal) == str(fitted(smallest, norm))
    else:
        assert f"cannot stand at placement={placement}" in str(refusal)


@pytest.mark.parametrize("name", RESIDUAL)
def test_at_preact_a_residual_net_begins_bare_and_ends_with_norm_and_activation(name):
    norm = next(each for each in UNBIASED if "preact" in FACTS[each]["places"])
    model = build(name, norm, placement="preact")
    names = {path: [child for child, _ in each.named_children()] for path, each in units_of(model)}
    assert names.pop("stem") == ["linear"]
    assert names.pop("finish") == ["norm", "act"]
    shortcuts = {path: names.pop(path) for path in list(names) if path.endswith("skip")}
    assert list(shortcuts.values()) == [["linear"]] * 2
    assert set(map(tuple, names.values())) == {("norm", "act", "linear")}


@pytest.mark.parametrize("name", MANY)
def test_layers_have_the_same_paths_and_shapes_whatever_norm_bias_and_placement(name):
    expected = {path: layer.weight.shape for path, layer in linears(build(name)).items()}
    settings = [(norm, "auto", "auto") for norm in NORMS]
    settings += [("none", bias, place) for bias in ("on", "off") for place in PLACES]
    for norm, bias, placement in settings:
        try:
            model = build(name, norm, bias=bias, placement=placement)
        except PartError:
            continue
        found = {path: layer.weight.shape for path, layer in linears(model).items()}
        assert found == expected, (norm, bias, placement)


@pytest.mark.parametrize("name", LIGHT)
def test_initial_weights_are_the_same_whatever_the_norm_and_the_bias(name):
    init = registry.find("init", "kaiming_normal")()
    expected = None
    for norm in NORMS:
        for bias in ("auto", "on", "off"):
            try:
                model = build(name, norm, bias=bias)
            except PartError:
                continue
            initialize(model, init, "relu", 3)
            weights = torch.cat([layer.weight.flatten() for layer in linears(model).values()])
            expected = weights if expected is None else expected
            assert weights.equal(expected), (norm, bias)


@pytest.mark.parametrize("name", NAMES)
def test_biases_follow_the_setting_except_in_the_head(name):
    for bias in ("on", "off"):
        layers = linears(build(name, BIASED[0], bias=bias))
        assert layers.pop("head").bias is not None
        found = {path for path, layer in layers.items() if layer.bias is not None}
        summed = {path for path in layers if path.startswith("hidden")}  # the cell has one bias
        assert found == (set(layers) - summed if bias == "on" else set())


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("placement", PLACES)
def test_a_bias_is_dropped_exactly_where_a_norm_that_makes_it_useless_comes_next(name, placement):
    if placement == "preact" and not KIND[name]["residual"]:
        pytest.skip("has no place")
    one, other = getattr(ORACLES[name], "SUMMED", ("", ""))
    seen = None
    for norm in NORMS:
        try:
            model = build(name, norm, placement=placement)
        except PartError:
            continue
        dropped = {path for path, layer in linears(model).items() if layer.bias is None}
        if FACTS[norm]["bias"]:
            assert dropped - {other} == set(), norm
        elif create(norm).layer(8, 2):
            seen = seen or (dropped, normed_directly(build(name, norm, placement=placement), name))
            assert dropped == seen[0], norm
    assert seen or placement == "post"  # which a model may refuse
    if seen:
        summed = {one, other} if placement == "pre" else {other}
        assert seen[0] - {""} == seen[1] | summed - {""}


def normed_directly(model, name):
    """The linear layers whose output goes into a norm and nowhere else, found by running."""
    made, taken = {}, {}

    def look(path, module, inputs, output):
        if isinstance(module, LAYERS):
            made[path] = output
        if not isinstance(module, nn.Sequential):
            taken.setdefault(id(inputs[0]), []).append((path, inputs[0]))

    for path, module in model.named_modules():
        module.register_forward_hook(lambda *seen, path=path: look(path, *seen))
    with torch.no_grad():
        filled(model).eval()(images(name))
    users = {path: [user for user, _ in taken.get(id(y), [])] for path, y in made.items()}
    return {
        path
        for path, names in users.items()
        if names and all(".norm" in f".{name}" for name in names)
    }


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("norm", UNBIASED)
def test_the_output_does_not_depend_on_a_bias_that_would_be_dropped(name, norm):
    if fitted(name, norm):
        pytest.skip("does not apply")
    dropped = [p for p, layer in linears(build(name, norm)).items() if layer.bias is None]
    model = filled(build(name, norm, bias="on"))
    apply(create(norm), model)
    moved = copy.deepcopy(model)
    for path in dropped:
        layer = moved.get_submodule(path)
        if isinstance(layer, LAYERS) and layer.bias is not None:
            layer.bias.data += torch.linspace(-2, 3, len(layer.bias))
    x = images(name)
    torch.testing.assert_close(moved.train()(x), model.train()(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if not ORACLES[name].DROPS])
def test_dropout_is_refused_where_it_has_no_place(name):
    with pytest.raises(ModelError, match="dropout=0.25 has no place\n  try: dropout=0"):
        build(name, dropout=0.25)


@pytest.mark.parametrize("name", [name for name in NAMES if ORACLES[name].DROPS])
def test_dropout_directly_follows_activations_and_is_absent_when_zero(name):
    assert not any(isinstance(each, Dropout) for each in build(name).modules())
    model = build(name, dropout=0.25)
    found = [(path, each) for path, each in model.named_modules() if isinstance(each, Dropout)]
    assert len(found) == ORACLES[name].DROPS
    assert {each.p for _, each in found} == {0.25}
    inside = [tuple(child for child, _ in each.named_children()) for _, each in units_of(model)]
    assert all(("act" in names) == ("drop" in names) for names in inside)
    assert all(names[names.index("act") + 1] == "drop" for names in inside if "act" in names)


@pytest.mark.parametrize("name", LIGHT)
def test_dropout_acts_in_training_only_and_draws_from_its_own_generator(name):
    model = filled(build(name, dropout=0.5))
    x = images(name)

    def run():
        for each in model.modules():
            if isinstance(each, Dropout):
                each.generator = torch.Generator().manual_seed(5)
        return model(x)

    before = torch.random.get_rng_state()
    assert run().equal(run())
    assert torch.random.get_rng_state().equal(before)
    assert not run().equal(filled(build(name))(x))
    assert model.eval()(x).equal(filled(build(name))(x))


def units_of(model):
    return [(path, each) for path, each in model.named_modules() if isinstance(each, Unit)]


@pytest.mark.parametrize(
    ("name", "options", "shape", "text"),
    [(name, *refused) for name in NAMES for refused in ORACLES[name].REFUSED],
)
def test_what_the_model_cannot_take_is_refused_with_a_way_out(name, options, shape, text):
    with pytest.raises(ModelError) as error:
        build(name, shape=shape, options=options)
    assert text in str(error.value)
    assert "\n  try: model" in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_no_model_names_a_norm(name):
    tree = ast.parse((registry._folder("models") / f"{name}.py").read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not texts & set(NORMS)
    assert {module for module in modules if "norms" in module} <= {
        "normbench.norms._base",
        "normbench.norms._units",
    }


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("act", ["tanh", "identity", "leaky_relu"])
def test_a_named_activation_takes_every_place_of_the_own_one(name, act):
    kinds = {"tanh": nn.Tanh, "identity": nn.Identity, "leaky_relu": nn.LeakyReLU}
    own = nn.Tanh if KIND[name]["activation"] == "tanh" else nn.ReLU
    model, named = build(name), build(name, activation=act)
    places = [path for path, each in model.named_modules() if isinstance(each, own)]
    assert places
    assert {type(named.get_submodule(path)) for path in places} == {kinds[act]}
    assert not any(isinstance(each, own) for each in named.modules()) or act == "tanh"


@pytest.mark.parametrize("name", LIGHT)
def test_three_models_stacked_under_vmap_equal_a_loop(name):
    models = [filled(build(name), seed) for seed in range(3)]
    x = torch.stack([images(name, seed=seed) for seed in range(3)])
    parameters, buffers = torch.func.stack_module_state(models)

    def run(p, b, x):
        return torch.func.functional_call(models[0], (p, b), (x,))

    together = torch.vmap(run)(parameters, buffers, x)
    alone = torch.stack([model(x[k]) for k, model in enumerate(models)])
    torch.testing.assert_close(together, alone)
