"""What an initializer does to a whole model: scales by data, residual branches, biases, gains."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from contracts.cases import own
from torch import nn

from normbench.errors import InitError
from normbench.inits._base import LAYERS, InitContext, initialize, linear_layers, set_gains
from normbench.models.cnn import CNN
from normbench.models.mlp import MLP
from normbench.models.resnet20 import ResNet20
from normbench.models.resnet56 import ResNet56
from normbench.models.rnn import RNN
from normbench.norms import create
from normbench.norms._modes import batch_statistics, calibrate
from normbench.norms._units import Unit, UnitBuilder, apply
from normbench.parts import registry
from normbench.runs import build
from normbench.runs.check import check_fit
from normbench.runs.job import Job
from normbench.settings import compose, schema

INITS, NORMS = own("init"), own("norm")
SHAPE = (1, 12, 12)


def make(name, **options):
    return registry.find("init", name)(**options)


def images(count=128, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(count, *SHAPE, generator=draws, dtype=torch.float64) * 3 + 0.5


def built(init, model=None, norm="none", act="relu", placement="auto", **options):
    """A model in float64, started as a run does, but from random images."""
    chosen = create(norm, **options)
    usual = "auto" if act == "relu" else act
    units = UnitBuilder(chosen, activation=usual, placement=placement)
    net = (model or CNN()).build(units, SHAPE, 10).double()
    initialize(net, init, act, 0)
    apply(chosen, net)
    set_gains(net, init)
    init.check(net)
    context = InitContext(None, 0, images(), chosen, nullcontext, 0, 50)
    with batch_statistics(net):
        calibrate(net, context.first)
        list(init.calibrate(net, context))
    return net


def linear_outputs(net, x):
    """Variance of all values that each linear layer, or what has taken its place, gives first."""
    found = {}

    def look(path):
        def hook(layer, inputs, output):
            if path not in found or not found[path]:
                found[path] = output.var(correction=0).item()

        return hook

    for path, layer in net.named_modules():
        if isinstance(layer, LAYERS) or path.endswith("linear"):
            layer.register_forward_hook(look(path))
    with torch.no_grad(), batch_statistics(net):
        net(x)
    return found


def offered(*words):
    """What the check of a command line says of a cell."""
    line = ["data=synthetic", "data.shape=[1,12,12]", "steps=2", *words]
    (cell,) = compose.Grid(compose.loader()).cells(line, False)
    about = schema.data_about({"data": cell.config.data})
    return check_fit(cell.config, about.shape, about.classes)


@pytest.mark.parametrize("name", INITS)
def test_all_biases_start_at_the_value_of_the_setting(name):
    plain, moved = (MLP().build(UnitBuilder(create("none")), SHAPE, 10) for _ in range(2))
    initialize(plain, make(name), "relu", 0)
    initialize(moved, make(name, bias=0.25), "relu", 0)
    for path, value in moved.named_parameters():
        if path.endswith("bias"):
            assert (value == 0.25).all()
        else:
            assert torch.equal(value, plain.get_parameter(path))


@pytest.mark.parametrize("name", [name for name in NORMS if create(name).norms_features()])
def test_a_norm_of_features_with_scale_0_gives_its_shift(name):
    unscaled = {"layer_scale": False} if hasattr(create(name), "layer_scale") else {}
    norm = create(name, **unscaled)  # online: divides what it gives by its length
    layer = norm.layer(8, 2) or norm.activation(None, 8, 2)
    affine = dict(layer.named_parameters())
    set_gains(layer, make("zeros", gamma=0.0, beta=0.75))
    y = layer(torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(0)))
    shift = torch.full((), 0.75 if "bias" in affine else 0.0)
    if "weight" in affine:
        torch.testing.assert_close(y, shift.expand_as(y))
    elif "bias" in affine:
        torch.testing.assert_close(y.mean(), shift)


@pytest.mark.parametrize("name", NORMS)
def test_scale_and_shift_touch_no_linear_layer_and_no_other_parameter(name):
    norm = create(name)
    net = CNN().build(UnitBuilder(norm), SHAPE, 10)
    initialize(net, make("kaiming_normal"), "relu", 0)
    apply(norm, net)
    linear = {
        id(parameter)
        for layer in net.modules()
        if any(each.dim() > 1 for each in layer.parameters(recurse=False))
        for parameter in layer.parameters(recurse=False)
    }
    before = {path: each.clone() for path, each in net.named_parameters()}
    set_gains(net, make("kaiming_normal", gamma=0.5, beta=0.25))
    for path, parameter in net.named_parameters():
        leaf = path.rpartition(".")[2]
        if leaf in ("weight", "bias") and id(parameter) not in linear:
            assert (parameter == {"weight": 0.5, "bias": 0.25}[leaf]).all(), path
        else:
            assert torch.equal(parameter, before[path]), path


def test_scales_of_time_steps_are_set_as_one():
    net = built(make("kaiming_normal", gamma=0.1), RNN(), norm="bn", act="tanh")
    scales = {path: each for path, each in net.named_parameters() if "norm" in path}
    assert (scales["norm.layers.0.weight"] == 0.1).all()
    assert not scales["norm.layers.0.bias"].any()


def test_a_run_starts_from_the_scales_and_shifts_that_are_set():
    (cell,) = compose.Grid(compose.loader()).cells(
        ["data=synthetic", "steps=1", "norm=gn", "init.gamma=0.5", "init.beta=-1"], False
    )
    norm = Job(cell.config).model.one.norm
    assert (norm.weight == 0.5).all()
    assert (norm.bias == -1).all()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["norm=none", "init.gamma=0.5"], "init.gamma=0.5: no norm here has a scale"),
        (["norm=rms", "init.beta=1"], "init.beta=1.0: no norm here has a shift"),
        (["norm=wn", "init.gamma=2"], "init.gamma=2.0: no norm here has a scale"),
    ],
)
def test_a_scale_that_is_not_there_is_warned_of(words, text):
    checked = offered("model=mlp", *words)
    key = text.partition("=")[0]
    assert checked.error is None
    assert [each.text for each in checked.warnings] == [f"{text}\n  try: {key}=null"]


def test_a_scale_that_is_there_is_not_warned_of():
    assert offered("norm=rms", "init.gamma=0.5").warnings == []


@pytest.mark.parametrize("act", ["relu", "tanh", "sigmoid", "identity"])
@pytest.mark.parametrize("model", [MLP(depth=20), CNN(), ResNet20()], ids=["mlp", "cnn", "resnet"])
def test_lsuv_gives_every_linear_layer_outputs_of_variance_1(model, act):
    net = built(make("lsuv", tol=1e-6), model, act=act)
    variances = linear_outputs(net, images())
    assert len(variances) == sum(isinstance(each, LAYERS) for each in net.modules())
    assert max(abs(each - 1) for each in variances.values()) < 1e-6


def test_lsuv_leaves_a_variance_within_its_tolerance():
    start = make("lsuv", tol=0.9)
    net, plain = built(start), CNN().build(UnitBuilder(create("none")), SHAPE, 10).double()
    initialize(plain, start, "relu", 0)
    variances = linear_outputs(net, images())
    kept = [
        path
        for path, each in plain.named_modules()
        if isinstance(each, LAYERS) and torch.equal(each.weight, net.get_submodule(path).weight)
    ]
    assert 0 < len(kept) < len(variances)
    assert max(abs(each - 1) for each in variances.values()) < 0.9


def test_lsuv_keeps_directions():
    net, plain = built(make("lsuv")), CNN().build(UnitBuilder(create("none")), SHAPE, 10).double()
    initialize(plain, make("orthogonal", gain=1.0), "relu", 0)
    for path, layer in plain.named_modules():
        if isinstance(layer, LAYERS):
            ratio = net.get_submodule(path).weight / layer.weight
            torch.testing.assert_close(ratio, ratio.flatten()[0].expand_as(ratio))


@pytest.mark.parametrize("norm", ["none", "wn", "scaled_ws"])
def test_lsuv_gives_each_group_of_a_convolution_outputs_of_variance_1(norm):
    """Against numpy: outputs are sums over the inputs of their own group."""
    made = create(norm, **({"data_init": False} if norm == "wn" else {}))
    net = nn.Sequential()
    net.unit = Unit([("linear", nn.Conv2d(6, 12, 1, groups=3))])
    net.double()
    start = make("lsuv", tol=1e-6)
    initialize(net, start, "relu", 0)
    apply(made, net)
    x = torch.randn(200, 6, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    x = x * torch.tensor([1, 1, 10, 10, 0.1, 0.1]).reshape(1, 6, 1, 1)
    context = InitContext(None, 0, x, made, nullcontext, 0, 50)
    list(start.calibrate(net, context))
    with torch.no_grad():
        y = net(x).numpy().reshape(200, 3, -1)
    np.testing.assert_allclose(y.var(axis=(0, 2)), 1, atol=1e-5)


def with_norm(norm):
    net, made = CNN().build(UnitBuilder(create(norm)), SHAPE, 10).double(), create(norm)
    initialize(net, make("orthogonal", bias=0.1), "relu", 0)
    apply(made, net)
    return net


def scales(norm):
    return dict(linear_layers(with_norm(norm)))


FIXED = [norm for norm in NORMS if None in scales(norm).values()]


@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_layer_declares_what_its_output_is_a_multiple_of(norm):
    layer, scale = list(linear_layers(with_norm(norm)))[1]
    x = images(8)[:, :, :6, :6].expand(8, 16, 6, 6) * torch.arange(1, 17).reshape(-1, 1, 1)
    with torch.no_grad(), batch_statistics(layer):
        before = layer(x)
        bias = dict(layer.named_parameters()).get("bias")
        shift = 0.0 if bias is None or scale is None else bias.reshape(-1, 1, 1)
        (layer.weight if scale is None else scale).mul_(3)
        after = layer(x)
    factor = 1 if scale is None else 3
    torch.testing.assert_close(after - shift, factor * (before - shift), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm not in FIXED])
def test_lsuv_works_with_every_norm_that_leaves_weights_a_length(norm):
    variances = linear_outputs(built(make("lsuv", tol=1e-5), norm=norm), images())
    assert len(variances) == 3
    assert max(abs(each - 1) for each in variances.values()) < 1e-5


@pytest.mark.parametrize("norm", FIXED)
def test_lsuv_is_refused_with_a_norm_that_takes_the_length_of_weights_away(norm):
    kind = next(type(layer).__name__ for layer, scale in scales(norm).items() if scale is None)
    text = (
        f"normbench: error: init=lsuv: the output of {kind} does not change with the "
        "length of weights\n  try: init=orthogonal"
    )
    assert str(offered(f"norm={norm}", "init=lsuv").error) == text


def test_a_gain_that_is_not_learned_cannot_be_scaled_by_lsuv():
    error = offered("norm=scaled_ws", "norm.affine=false", "init=lsuv").error
    assert "ScaledWeightStandardization does not change" in str(error)


def test_a_layer_that_sets_itself_from_data_does_so_under_lsuv_in_its_turn():
    net = built(make("lsuv", tol=1e-6), norm="wn", init_scale=0.5)
    variances = linear_outputs(net, images())
    assert variances.pop("head") == pytest.approx(1, abs=1e-6)
    assert list(variances.values()) == pytest.approx([0.25, 0.25], abs=1e-6)


def test_lsuv_leaves_biases_and_takes_a_setting_of_them_into_account():
    net = built(make("lsuv", tol=1e-6, bias=0.5))
    assert all((each.bias == 0.5).all() for each in net.modules() if isinstance(each, LAYERS))
    assert list(linear_outputs(net, images()).values()) == pytest.approx([1] * 3, abs=1e-6)


def test_lsuv_scales_a_recurrent_map_at_the_first_step_at_which_it_varies():
    net = built(make("lsuv", tol=1e-6), RNN(), act="tanh")
    variances = linear_outputs(net, images())
    assert list(variances.values()) == pytest.approx([1] * 3, abs=1e-6)


def test_lsuv_leaves_a_layer_that_gives_constants():
    start = make("lsuv")
    net = MLP(depth=1).build(UnitBuilder(create("none")), SHAPE, 10).double()
    initialize(net, start, "relu", 0)
    before = net.layer1.linear.weight.clone()
    context = InitContext(None, 0, images() * 0, create("none"), nullcontext, 0, 50)
    list(start.calibrate(net, context))
    assert torch.equal(net.layer1.linear.weight, before)


def test_a_run_with_lsuv_starts_at_variance_1_by_training_images():
    (cell,) = compose.Grid(compose.loader()).cells(
        ["data=synthetic", "steps=2", "batch=128", "norm=none", "init=lsuv", "init.tol=1e-3"], False
    )
    job = Job(cell.config)
    next(job.rows())
    order = job.train.order(cell.config.seed, 0, 128)
    variances = linear_outputs(job.model, job.train.gather(order[0])[0])
    assert list(variances.values()) == pytest.approx([1] * 3, abs=1e-3)


def resnet(model, start, act="relu", placement="auto"):
    net = model.build(UnitBuilder(create("none"), activation=act, placement=placement), SHAPE, 10)
    start.extend(net)
    initialize(net, start, act, 0)
    return net.double()


@pytest.mark.parametrize("placement", ["pre", "preact"])
def test_fixup_starts_as_the_zero_function_whose_branches_are_zero(placement):
    net = resnet(ResNet20(), make("fixup"), placement=placement)
    blocks = [each for each in net.modules() if hasattr(each, "branch")]
    seen = []
    for block in blocks:
        block.two.register_forward_hook(lambda unit, x, y: seen.append(y.abs().max().item()))
    assert not net(images(4)).any()
    assert len(seen) == 9
    assert not any(seen)


def test_fixup_scales_what_is_in_branches_and_draws_as_kaiming_elsewhere():
    net, plain = (resnet(ResNet20(), make(name)) for name in ("fixup", "kaiming_normal"))
    branches = 9
    for path, layer in plain.named_modules():
        if not isinstance(layer, LAYERS):
            continue
        factor = 1.0
        if path == "head" or path.endswith("two.linear"):
            factor = 0.0
        elif path.endswith("one.linear"):
            factor = branches**-0.5  # L^(-1/(2m - 2)) of m = 2 layers
        weight = net.get_submodule(path).weight
        torch.testing.assert_close(weight, factor * layer.weight, rtol=1e-6, atol=0)


def test_fixup_computes_what_the_paper_draws():
    """One block of figure 1, right, and the classifier, in plain torch."""
    net, f = resnet(ResNet20(), make("fixup")), nn.functional
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws) / 4)
        x = torch.randn(2, 16, 5, 5, generator=draws).double()
        block = net.stage1.block2
        one, two = block.one, block.two
        z = f.conv2d(x + one.linear_shift.shift, one.linear.weight, padding=1)
        z = torch.relu(z + one.act_shift.shift)
        z = f.conv2d(z + two.linear_shift.shift, two.linear.weight, padding=1)
        z = z * two.factor.factor + two.shift.shift
        torch.testing.assert_close(block(x), torch.relu(x + z))
        features = torch.randn(2, 64, 1, 1, generator=draws).double()
        logits = (features[..., 0, 0] + net.head_shift.shift) @ net.head.weight.T + net.head.bias
        torch.testing.assert_close(net[5:](features), logits)


@pytest.mark.parametrize(("placement", "shifts"), [("pre", 41), ("preact", 41)])
def test_fixup_has_single_learned_numbers_in_place_of_biases(placement, shifts):
    net = resnet(ResNet20(), make("fixup"), placement=placement)
    sizes = [value.numel() for path, value in net.named_parameters() if value.dim() == 1]
    assert sizes.count(10) == 1 and len(sizes) - 1 == sizes.count(1)
    numbers = {path: value for path, value in net.named_parameters() if value.shape == (1,)}
    factors = [value for path, value in numbers.items() if path.endswith("factor")]
    assert len(factors) == 9 and all(value == 1 for value in factors)
    assert len(numbers) - 9 == shifts
    assert sum(value.item() for value in numbers.values()) == 9


class Bottleneck(nn.Module):
    """A residual block of three dense layers."""

    branch = ("one", "two", "three")

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Linear(6, 6) for _ in range(3))


class Single(nn.Module):
    """A residual block of one dense layer."""

    branch = ("only",)

    def __init__(self):
        super().__init__()
        self.only = nn.Linear(6, 6)


def test_fixup_knows_branches_of_other_depths():
    net = nn.Sequential(*(Bottleneck() for _ in range(16)), Single())
    plain = nn.Sequential(*(Bottleneck() for _ in range(16)), Single())
    initialize(net, make("fixup"), "tanh", 0)
    initialize(plain, make("kaiming_normal"), "tanh", 0)
    for block, other in zip(net[:16], plain[:16], strict=True):
        for name in ("one", "two"):  # 17 branches; m = 3: L^(-1/4)
            weight = 17**-0.25 * getattr(other, name).weight
            torch.testing.assert_close(getattr(block, name).weight, weight)
        assert not block.three.weight.any()
    assert not net[16].only.weight.any()


def test_fixup_keeps_signals_the_same_in_a_deep_net_where_kaiming_explodes():
    def last(start):
        net, found = resnet(ResNet56(), start), []
        net.average.register_forward_hook(lambda layer, x, y: found.append(x[0].square().mean()))
        with torch.no_grad():
            net(images(16))
        return math.log10(found[0])

    assert abs(last(make("fixup"))) < 2
    assert last(make("kaiming_normal")) > 5


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["model=cnn", "norm=none"],
            "init=fixup: this model tells of no residual branches\n  try: model=resnet20",
        ),
        (
            ["model=resnet20", "norm=ws"],
            "init=fixup: WeightStandardization cannot start from scaled and zero weights"
            "\n  try: norm=none",
        ),
        (
            ["model=resnet20", "norm=cosine"],
            "init=fixup: CosineLinear cannot start from scaled and zero weights\n  try: norm=none",
        ),
    ],
)
def test_fixup_is_refused_where_it_has_no_place(words, text):
    assert str(offered("init=fixup", *words).error).endswith(text)


def test_fixup_trains_a_residual_net_without_a_norm():
    (cell,) = compose.Grid(compose.loader()).cells(
        ["data=synthetic", "data.shape=[1,8,8]", "model=resnet20", "norm=none", "init=fixup"]
        + ["steps=60", "batch=32", "eval_every=9", "seed=1"],
        False,
    )
    rows = list(Job(cell.config).rows())
    first, *_, last = [row.values["val/loss"] for row in rows if row.kind == "val"]
    assert first == pytest.approx(math.log(10), abs=1e-6)
    assert last < first - 0.1


@pytest.mark.parametrize("placement", ["pre", "preact"])
def test_skipinit_puts_a_learned_factor_at_the_end_of_each_branch(placement):
    net, plain = (
        resnet(ResNet20(), make(name, **how), placement=placement)
        for name, how in (("skipinit", {"alpha": 0.5}), ("kaiming_normal", {}))
    )
    theirs = plain.state_dict()
    assert all(torch.equal(net.state_dict()[key], value) for key, value in theirs.items())
    ours, block = net.stage1.block1, plain.stage1.block1
    x = torch.randn(2, 16, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), block.join(0.5 * block.two(block.one(x)) + x))
    factors = [value for key, value in net.named_parameters() if key.endswith("factor")]
    assert len(factors) == 9
    gradients = torch.autograd.grad(net(images(4)).square().sum(), factors)
    assert all(bool(gradient.any()) for gradient in gradients)
    with pytest.raises(InitError, match="init=skipinit: this model tells of no residual branches"):
        make("skipinit").check(started("model=cnn")[0])


@pytest.mark.parametrize("shape", [(32, 12, 3, 3), (12, 32, 3, 3), (20, 8, 5, 1)])
def test_delta_orthogonal_maps_each_position_by_one_orthogonal_matrix(shape):
    out, fan, *taps = shape
    layer = nn.Conv2d(fan, out, taps, padding="same", bias=False).double()
    initialize(layer, make("delta_orthogonal", gain=1.0), "relu", 0)
    x = torch.randn(2, fan, 7, 7, generator=torch.Generator().manual_seed(0)).double()
    y = layer(x)
    if fan <= out:
        torch.testing.assert_close(y.square().sum(1), x.square().sum(1))
    else:
        h = layer.weight.detach().sum((2, 3))
        torch.testing.assert_close(h @ h.T, torch.eye(out, dtype=h.dtype))
        torch.testing.assert_close(y, torch.einsum("oi,nihw->nohw", h, x))


def test_the_centre_of_an_even_kernel_is_the_lower_of_the_two_in_the_middle():
    layer = nn.Conv2d(4, 4, (2, 4), bias=False)
    initialize(layer, make("delta_orthogonal"), "relu", 0)
    assert layer.weight[:, :, 0, 1].all()
    assert torch.count_nonzero(layer.weight) == 16


def test_delta_orthogonal_keeps_lengths_through_grouped_convolutions():
    layer = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False).double()
    initialize(layer, make("delta_orthogonal", gain=1.0), "relu", 0)
    centre = layer.weight.detach()[:, 0, 1, 1]
    np.testing.assert_allclose(centre.abs().numpy(), 1, atol=1e-12)
    assert 0 < (centre > 0).sum() < 24


def test_delta_orthogonal_keeps_the_mean_square_of_a_deep_linear_convolution():
    layers = [nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(50)]
    net = nn.Sequential(*layers).double()
    initialize(net, make("delta_orthogonal"), "identity", 0)
    x = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(net(x).square().mean(), x.square().mean())


@pytest.mark.parametrize("name", ["xavier_normal", "xavier_uniform"])
def test_xavier_takes_the_gain_of_the_activation_where_none_is_given(name):
    one, other = nn.Linear(30, 20), nn.Linear(30, 20)
    initialize(one, make(name, gain=None), "tanh", 0)
    initialize(other, make(name, gain=5 / 3), "tanh", 0)
    assert torch.equal(one.weight, other.weight)


def test_the_misquoted_kaiming_doubles_the_mean_square_of_a_relu_layer():
    layer = nn.Linear(500, 2000, bias=False).double()
    initialize(layer, make("kaiming_misquoted"), "relu", 0)
    x = torch.randn(500, 500, generator=torch.Generator().manual_seed(0)).double().relu()
    ratio = layer(x).relu().square().mean() / x.square().mean()
    assert ratio.item() == pytest.approx(2, rel=0.03)


def test_an_init_that_learns_nothing_yields_no_rows():
    assert list(make("kaiming_normal").calibrate(nn.Linear(2, 2), None)) == []


def test_units_are_what_fixup_and_pretraining_go_by():
    net = CNN().build(UnitBuilder(create("none")), SHAPE, 10)
    assert [path for path, each in net.named_modules() if isinstance(each, Unit)] == ["one", "two"]
    assert net.head.classifies
    with pytest.raises(InitError, match="no residual branches"):
        make("fixup").check(net)


def started(*words):
    """The model of a run, and its initializer's name."""
    line = ["data=synthetic", "data.shape=[1,12,12]", "steps=2", "norm=none", *words]
    (cell,) = compose.Grid(compose.loader()).cells(line, False)
    return build.model(cell.config, SHAPE, 10), cell.config.init["name"]


@pytest.mark.parametrize(("model", "gates"), [("rnn", 1), ("lstm", 4)])
def test_recurrent_nets_start_from_orthogonal_maps_of_the_state_and_xavier_inputs(model, gates):
    net, name = started(f"model={model}", "model.width=32")
    assert name == "recurrent"
    inputs, states, head = (
        layer.weight.detach().double().numpy()
        for layer in (net.input.linear, net.hidden.linear, net.head)
    )
    for gate in np.split(states, gates):
        np.testing.assert_allclose(gate @ gate.T, np.eye(32), atol=1e-5)
    for gate in [*np.split(inputs, gates), head]:  # bounds of uniform draws, nearly reached
        bound = math.sqrt(6 / sum(gate.shape))
        assert 0.95 * bound < np.abs(gate).max() <= bound
    assert not any(path.endswith("bias") and value.any() for path, value in net.named_parameters())


@pytest.mark.parametrize("model", ["mlp", "cnn", "rnn"])
def test_a_named_initializer_stands_for_every_kind_of_model(model):
    assert started(f"model={model}", "init=lecun_normal")[1] == "lecun_normal"


def test_other_models_start_from_kaiming_weights():
    assert started("model=mlp")[1] == "kaiming_normal"


def test_the_gates_of_an_lstm_are_one_layer_where_torch_is_asked_for():
    net, _ = started("model=lstm", "model.width=8", "init=orthogonal", "init.groups=torch")
    states = net.hidden.linear.weight.detach().double()  # (32, 8): orthogonal columns
    gain = (5 / 3) ** 2
    torch.testing.assert_close(states.T @ states, gain * torch.eye(8).double(), atol=1e-5, rtol=0)


def weights_init(m):
    """The recipe of `docs/init.md` that matches no class of torch."""
    name = m.__class__.__name__
    if name.find("Conv2D") != -1:
        nn.init.normal_(m.weight, 0.0, 0.02)
    elif name.find("Dense") != -1:
        nn.init.constant_(m.bias)


def test_names_that_match_no_class_leave_every_layer_as_torch_made_it():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 10))
    before = {path: value.clone() for path, value in net.state_dict().items()}
    net.apply(weights_init)
    assert all(torch.equal(value, before[path]) for path, value in net.state_dict().items())
    dense = type("Dense", (nn.Linear,), {})(3, 3)
    with pytest.raises(TypeError, match="val"):
        dense.apply(weights_init)


def stepped(act, steps):
    """The changes of an mlp of zeros in steps of plain gradient descent, by path."""
    net = MLP(depth=2, width=6).build(
        UnitBuilder(create("none"), activation=registry.find("activation", act)()), SHAPE, 10
    )
    net.double()
    initialize(net, make("zeros"), act, 0)
    before = {path: value.clone() for path, value in net.named_parameters()}
    x, y = images(32), torch.arange(32) % 7
    for _ in range(steps):
        net.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= parameter.grad
    return {path: (value - before[path]).detach() for path, value in net.named_parameters()}


def test_from_zeros_with_relu_nothing_moves_but_the_last_bias():
    assert [path for path, change in stepped("relu", 5).items() if change.any()] == ["head.bias"]


def test_from_zeros_with_sigmoid_all_layers_move_but_the_units_of_a_layer_alike():
    assert {path for path, change in stepped("sigmoid", 1).items() if change.any()} == {
        "head.weight",
        "head.bias",
    }
    moved = stepped("sigmoid", 4)
    assert all(change.any() for change in moved.values())
    torch.testing.assert_close(moved["head.weight"], moved["head.weight"][:, :1].expand(10, 6))
    first = moved["layer1.linear.weight"]
    torch.testing.assert_close(first, first[:1].expand_as(first))
