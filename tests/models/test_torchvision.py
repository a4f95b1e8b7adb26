"""Torchvision's networks: equal to the originals, with every norm, and what is refused."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from contracts.cases import create, default_dtype
from torch import nn
from torchvision import models, ops

from normbench import norms
from normbench.cli.main import main
from normbench.errors import ModelError, NormError, PartError
from normbench.inits._base import LAYERS, initialize
from normbench.inits.kaiming_normal import KaimingNormal
from normbench.models.torchvision import StochasticDepth, Torchvision
from normbench.norms._activations import TLU
from normbench.norms._units import Dropout, UnitBuilder, apply
from normbench.runs import build as runs_build
from normbench.settings import compose

NAMES = models.list_models(module=models)
FAMILIES = {  # one of each, and the side of its images
    **dict.fromkeys(("resnet18", "mobilenet_v3_small", "regnet_y_400mf"), 33),
    **dict.fromkeys(("densenet121", "efficientnet_b0", "shufflenet_v2_x0_5", "squeezenet1_1"), 33),
}
LARGER = {
    **dict.fromkeys(("efficientnet_v2_s", "googlenet", "mnasnet0_5", "mobilenet_v2"), 33),
    **dict.fromkeys(("regnet_x_400mf", "resnet50", "resnext50_32x4d", "wide_resnet50_2"), 33),
    "inception_v3": 75,
    "alexnet": 64,
    "vgg11_bn": 33,
}
SLOW = [pytest.param(*each, marks=pytest.mark.slow) for each in LARGER.items()]
UNNORMED = {name for name in NAMES if re.fullmatch(r"alexnet|squeezenet.*|vgg\d+", name)}
FOREIGN = {name for name in NAMES if re.match("convnext|maxvit|swin|vit", name)}


def build(arch, norm="none", shape=(3, 33, 33), **how):
    return Torchvision(arch=arch).build(UnitBuilder(create(norm), **how), shape, 10)


def filled(module, seed=0):
    """`module` with random parameters and running statistics, as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.is_floating_point():
                fan = tensor[0].numel() if tensor.dim() > 1 else 4
                tensor.normal_(1.0 * (tensor.dim() == 1), fan**-0.5, generator=generator)
    return module


def original(arch, **how):
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of googlenet and inception
        return filled(models.get_model_builder(arch)(num_classes=10, **how))


def run_order(model, x):
    """The modules with parameters of their own, in the order in which they run, in evaluation."""
    found = []
    hooks = [
        each.register_forward_hook(lambda module, x, y: found.append(module))
        for each in model.modules()
        if next(each.parameters(recurse=False), None) is not None
    ]
    with torch.no_grad():
        model.eval()(x)
    for hook in hooks:
        hook.remove()
    return found


def copied(ours, theirs, x):
    """Give our model the values of torchvision's; where theirs has no bias ours is 0."""
    for mine, other in zip(run_order(ours, x), run_order(theirs, x), strict=True):
        values = {name: each for name, each in other.state_dict().items() if "tracked" not in name}
        for name, tensor in mine.state_dict().items():
            if "tracked" not in name:
                tensor.copy_(values.pop(name)) if name in values else tensor.zero_()
        assert not values


def images(side, channels=3, count=4):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("arch", "side"), [*FAMILIES.items(), *SLOW])
def test_with_its_own_norm_a_network_is_that_of_torchvision(arch, side):
    with default_dtype(torch.float64):
        theirs, x = original(arch), images(side)
        eps = {each.eps for each in theirs.modules() if isinstance(each, nn.BatchNorm2d)}
        norm = norms.create("bn", eps=eps.pop()) if eps else norms.create("none")
        ours = Torchvision(arch=arch).build(UnitBuilder(norm, bias="on"), tuple(x.shape[1:]), 10)
        copied(ours, theirs, x)
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2", "regnet_x_400mf"])
def test_with_another_norm_a_network_is_what_torchvision_builds_with_that_norm_layer(arch):
    with default_dtype(torch.float64):
        theirs = original(arch, norm_layer=lambda channels: nn.GroupNorm(8, channels))
        units, x = UnitBuilder(norms.create("gn", groups=8), bias="off"), images(40)
        ours = Torchvision(arch=arch).build(units, (3, 40, 40), 10)
        copied(ours, theirs, x)
        pairs = list(zip(run_order(ours, x), run_order(theirs, x), strict=True))
        ours(x).square().sum().backward()
        theirs(x).square().sum().backward()
        for mine, other in pairs:
            for name, parameter in mine.named_parameters():
                torch.testing.assert_close(parameter.grad, other.get_parameter(name).grad)


def count_calls(model):
    """The number of calls of each module without children, as they happen."""
    calls = Counter()
    for module in model.modules():
        if not any(True for _ in module.children()):
            module.register_forward_hook(lambda module, x, y: calls.update([module]))
    return calls


def checked(arch, norm):
    """Build a network without values, and return its logits or why it is refused."""
    try:
        with torch.device("meta"), torch.no_grad():
            how = create(norm)
            model = build(arch, norm, (1, 96, 96), bias="auto")
            apply(how, model)
            calls = count_calls(model)
            logits = model(torch.zeros(2, 1, 96, 96))
    except PartError as refusal:
        return str(refusal)
    assert set(calls.values()) == {1}  # so that every call has parameters of its own
    assert not any(isinstance(each, nn.BatchNorm2d | nn.Dropout) for each in model.modules())
    return tuple(logits.shape)


@pytest.mark.slow
@pytest.mark.parametrize("arch", NAMES)
def test_every_network_of_torchvision_gives_logits_or_is_refused_in_two_lines(arch):
    before = torch.random.get_rng_state()
    found = {norm: checked(arch, norm) for norm in ("none", "gn", "ws", "frn", "evonorm_b0", "cbn")}
    assert torch.random.get_rng_state().equal(before)
    refused = {norm: each for norm, each in found.items() if isinstance(each, str)}
    assert set(found.values()) - set(refused.values()) <= {(2, 10)}
    assert all(
        each.count("\n") == 1 and "\n  try: model.arch=" in each for each in refused.values()
    )
    if arch in FOREIGN:
        assert set(refused) == set(found)
    elif arch in UNNORMED:
        assert set(refused) == {"gn", "frn", "evonorm_b0", "cbn"}
    else:
        assert set(refused) == ({"cbn"} if "densenet" in arch else set())


@pytest.mark.parametrize("arch", ["resnet18", "swin_t", "regnet_x_400mf", "squeezenet1_1"])
def test_building_draws_no_random_number(arch):
    before = torch.random.get_rng_state()
    with suppress(ModelError):
        build(arch)
    assert torch.random.get_rng_state().equal(before)


@pytest.mark.parametrize("arch", ["squeezenet1_1", "googlenet", "densenet121"])
def test_images_that_are_just_too_small_are_those_that_torchvision_cannot_take(arch):
    with pytest.raises(ModelError, match="needs images of at least") as error:
        build(arch, shape=(3, 1, 1))
    least = int(re.search(r"at least (\d+)x", str(error.value))[1])
    assert f"{arch}: needs images of at least {least}x{least}, these are 1x1\n" in str(error.value)
    theirs = original(arch).eval()
    assert theirs(images(least)).shape == (4, 10)
    with pytest.raises(RuntimeError):
        theirs(images(least - 1))
    build(arch, shape=(3, least, least + 9))


def kinds(model):
    """What stands in the place of an activation, outside of gates."""
    return {type(each) for each in model.modules() if hasattr(each, "acts")}


def test_activations_stay_those_of_torchvision_unless_one_is_named():
    assert kinds(build("mobilenet_v3_small")) == {nn.ReLU, nn.Hardswish}
    assert kinds(build("mobilenet_v3_small", activation="relu")) == {nn.ReLU}
    assert kinds(build("mobilenet_v3_small", activation="tanh")) == {nn.Tanh}


def test_gates_keep_their_activations_and_take_no_norm():
    model = filled(build("efficientnet_b0", "wn", activation="tanh"))
    apply(norms.create("wn"), model)
    gates = [each for each in model.modules() if isinstance(each, ops.SqueezeExcitation)]
    assert len(gates) == 16
    for gate in gates:
        assert isinstance(gate.activation, nn.SiLU)
        assert isinstance(gate.scale_activation, nn.Sigmoid)
        assert isinstance(gate.fc1, nn.Conv2d)
        assert isinstance(gate.fc2, nn.Conv2d)


def test_each_call_of_a_shared_activation_has_thresholds_of_its_own():
    channels = [
        each.tau.numel() for each in build("resnet50", "frn").modules() if isinstance(each, TLU)
    ]
    blocks = [(64, 256)] * 3 + [(128, 512)] * 4 + [(256, 1024)] * 6 + [(512, 2048)] * 3
    assert sorted(channels) == sorted(
        [64, *(c for inner, out in blocks for c in (inner, inner, out))]
    )


def test_a_norm_that_is_its_own_activation_stands_at_branch_ends_only_after_the_sum():
    model = build("resnet18", "evonorm_s0")
    block = model.get_submodule("layer1.0")
    assert [name for name, _ in block.conv1.named_children()] == ["linear", "act"]
    assert [name for name, _ in block.conv2.named_children()] == ["linear"]
    assert type(block.relu) is type(block.conv1.act)


def test_dropout_sets_the_probability_of_the_layers_that_torchvision_has():
    layers = [
        each for each in build("mobilenet_v2", dropout=0.3).modules() if isinstance(each, Dropout)
    ]
    assert [each.p for each in layers] == [0.3]
    assert not any(isinstance(each, Dropout) for each in build("mobilenet_v2").modules())


def test_stochastic_depth_has_the_rates_of_torchvision():
    rates = [
        each.p for each in build("efficientnet_b0").modules() if isinstance(each, StochasticDepth)
    ]
    theirs = [
        each.p
        for each in original("efficientnet_b0").modules()
        if isinstance(each, ops.StochasticDepth)
    ]
    used = [p for p in theirs if p]
    assert set(rates) <= set(used)
    assert len(rates) == 9  # of 16 blocks: those that keep size and channels, but for the first


def test_stochastic_depth_drops_whole_samples_by_its_own_generator():
    layer, x = StochasticDepth(0.25), torch.ones(4000, 2, 3, 1)
    layer.generator = torch.Generator().manual_seed(3)
    before = torch.random.get_rng_state()
    y = layer(x)
    assert torch.random.get_rng_state().equal(before)
    assert y.equal(y[:, :1, :1].expand_as(y))
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(y.bool()[:, 0, 0, 0].double().mean() - 0.75) < 4 * (0.75 * 0.25 / 4000) ** 0.5
    layer.generator.manual_seed(3)
    assert layer(x).equal(y)
    assert layer.eval()(x) is x


def test_a_norm_of_features_is_refused_where_torchvision_has_none():
    with pytest.raises(
        NormError, match="arch=vgg11 has no norm layer whose place it could take"
    ) as error:
        build("vgg11", "gn")
    assert str(error.value).endswith("\n  try: model.arch=vgg11_bn")
    with pytest.raises(NormError, match="no norm layer") as error:
        build("squeezenet1_1", "ws+gn")
    assert str(error.value).endswith("\n  try: model.arch=resnet18")


def replaced(arch, norm, **how):
    """The linear layers that a norm of weights has taken the place of, and all others, by path."""
    model = filled(build(arch, norm, **how))
    layers = {path for path, each in model.named_modules() if isinstance(each, LAYERS)}
    apply(create(norm), model)
    others = {path for path, each in model.named_modules() if isinstance(each, LAYERS)}
    return layers - others, others


def test_without_norm_layers_a_norm_of_weights_acts_on_all_linear_layers_but_the_last():
    acted, others = replaced("squeezenet1_1", "ws+agc")
    assert len(acted) == 25
    assert others == {"head"}


def test_a_norm_of_weights_acts_on_the_layers_before_the_norms_of_torchvision():
    acted, others = replaced("mobilenet_v3_small", "wn")
    gates = {path for path in others if path.rpartition(".")[2] in ("fc1", "fc2")}
    assert others - gates == {"classifier.0", "head"}
    assert len(acted) == 34


def test_a_norm_that_must_follow_its_layer_is_refused_where_torchvision_has_norms_before_them():
    with pytest.raises(NormError, match="cannot stand before the linear layers") as error:
        build("densenet121", "cbn")
    assert "model.arch=densenet121 has its norms\n  try: model.arch=resnet18" in str(error.value)


@pytest.mark.parametrize("place", ["post", "preact"])
def test_another_placement_is_refused(place):
    with pytest.raises(ModelError, match=f"not at placement={place}\n  try: placement=pre"):
        build("resnet18", placement=place)


@pytest.mark.parametrize(
    ("bias", "norm", "biased"),
    [("auto", "bn", False), ("auto", "gn", True), ("off", "gn", False), ("on", "bn", True)],
)
def test_the_norm_decides_on_a_bias_before_it(bias, norm, biased):
    layers = dict(build("shufflenet_v2_x0_5", norm, bias=bias).named_modules())
    found = {each.bias is not None for path, each in layers.items() if path.endswith(".linear")}
    assert found == {biased}
    assert layers["head"].bias is not None


def test_a_bias_that_no_norm_follows_is_left_as_torchvision_has_it():
    def biased(**how):
        model = build("mobilenet_v3_small", "bn", **how)
        return model.get_submodule("classifier.0").bias is not None

    assert biased(bias="auto")
    assert not biased(bias="off")


def test_initial_weights_are_the_same_whatever_the_norm():
    weights = []
    for norm in ("none", "bn", "ws", "frn", "evonorm_b0", "cbn"):
        model = build("shufflenet_v2_x0_5", norm)
        initialize(model, KaimingNormal(), "relu", 3)
        weights.append(
            torch.cat(
                [each.weight.flatten() for each in model.modules() if isinstance(each, LAYERS)]
            )
        )
    assert all(each.equal(weights[0]) for each in weights)


def test_three_networks_stacked_under_vmap_equal_a_loop():
    with default_dtype(torch.float64):
        nets = [filled(build("shufflenet_v2_x0_5", "gn"), seed) for seed in range(3)]
        x = torch.stack([images(33), images(33) + 1, images(33) - 1])
        parameters, buffers = torch.func.stack_module_state(nets)

        def run(p, b, x):
            return torch.func.functional_call(nets[0], (p, b), (x,))

        together = torch.vmap(run)(parameters, buffers, x)
        alone = torch.stack([net(x[k]) for k, net in enumerate(nets)])
        torch.testing.assert_close(together, alone)


def test_an_unknown_network_is_refused_before_anything_is_created(tmp_path, capfd):
    words = [
        "model=torchvision",
        "model.arch=resnt50",
        "data=synthetic",
        f"outputs={tmp_path / 'o'}",
    ]
    assert main(["train", *words]) == 2
    assert capfd.readouterr() == (
        "",
        "normbench: error: model.arch=resnt50: torchvision has no classification model of this "
        "name\n  try: model.arch=resnet50\n",
    )
    assert not (tmp_path / "o").exists()


def test_a_network_with_its_own_activations_starts_with_the_gain_of_relu():
    words = ["model=torchvision", "model.arch=squeezenet1_0", "data=synthetic", "norm=none"]
    (cell,) = compose.Grid(compose.loader()).cells(words, False)
    own, relu = (
        runs_build.model(replace(cell.config, activation={"name": name}), (3, 32, 32), 10)
        for name in ("auto", "relu")
    )
    for mine, other in zip(own.parameters(), relu.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_layer_has_the_gain_of_what_follows_it():
    """A block of mobilenet_v2: 1x1 expansion, relu6, depthwise, relu6, 1x1 projection, and sum."""
    model = build("mobilenet_v2", "none")
    initialize(model, KaimingNormal(), "relu", 0)
    for path in ("features.5.conv.0.0", "features.5.conv.2"):
        weight = model.get_submodule(path).linear.weight.detach().double()
        gain = weight.square().mean().sqrt() * math.sqrt(weight[0].numel())
        assert gain == pytest.approx(math.sqrt(2) if path.endswith("0.0") else 1, rel=0.03)
    (*_, gate) = (
        m for m in build("efficientnet_b0").modules() if isinstance(m, ops.SqueezeExcitation)
    )
    assert gate.fc2.followed_by == "sigmoid"
    plain = (m for m in build("resnet18").modules() if getattr(m, "followed_by", "") == "identity")
    assert len(list(plain)) == 1  # the head: after each sum there is a relu
