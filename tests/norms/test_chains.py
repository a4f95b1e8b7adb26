"""Norms joined by `+`: order, facts, hooks, and what cannot stand together."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from normbench.errors import NormError
from normbench.norms import create
from normbench.norms._units import UnitBuilder, apply
from normbench.parts import registry


def unit(norm, seed=0):
    """A convolution with the norm in place, filled from a seed."""
    made = nn.Sequential(UnitBuilder(norm).conv(3, 6, 3, padding=1))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made[0].linear.parameters():
            parameter.normal_(generator=generator)
    apply(norm, made)
    return made


def images(seed=1):
    return torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))


def test_a_linear_member_and_a_layer_compute_what_both_do_one_after_the_other():
    joined = unit(create("ws+gn", ws={"eps": 0.1}, gn={"groups": 2}))
    conv = nn.Conv2d(3, 6, 3, padding=1)
    conv.load_state_dict(
        {key: joined.state_dict()[f"0.linear.{key}"] for key in ("weight", "bias")}
    )
    alone = nn.Sequential(
        create("ws", eps=0.1).linear(conv), create("gn", groups=2).layer(6, 2), nn.ReLU()
    )
    x = images()
    one, other = joined(x), alone(x)
    assert one.equal(other)
    one.square().sum().backward()
    other.square().sum().backward()
    for left, right in zip(joined.parameters(), alone.parameters(), strict=True):
        assert left.grad.equal(right.grad)


def test_layers_stand_in_the_order_of_the_names():
    x = images()
    for name in ("dyt+ln", "ln+dyt"):
        layer = create(name).layer(3, 2)
        first, second = (create(each).layer(3, 2) for each in name.split("+"))
        assert layer(x).equal(second(first(x)))
    assert not create("dyt+ln").layer(3, 2)(x).equal(create("ln+dyt").layer(3, 2)(x))


def test_a_single_layer_keeps_the_parameter_names_of_the_norm_alone():
    assert create("ws+gn").layer(6, 2).state_dict().keys() == {"weight", "bias"}
    assert create("gn+bn").layer(6, 2).state_dict().keys() >= {"gn.weight", "bn.running_mean"}
    assert create("none+ws").layer(6, 2) is None


@pytest.mark.parametrize(
    ("name", "bias"),
    [
        ("ws+gn", True),
        ("ws+bn", False),
        ("bn+ws", False),
        ("wn+mean", False),
        ("gn+bn", True),  # gn first: the constants shift whole groups before bn sees them
        ("bn+gn", False),
        ("none+bn", False),
        ("cosine+gn", False),  # cosine has no bias that could be of use
        ("agc+ln", True),
    ],
)
def test_the_bias_is_dropped_where_the_next_layer_removes_constants(name, bias):
    assert create(name).bias == bias
    assert registry.facts("norm", name).constants["bias"] == bias
    linear = UnitBuilder(create(name)).conv(3, 6, 3).linear
    assert (linear.bias is not None) == bias


def test_facts_of_the_whole_follow_from_the_members():
    chain = create("ws+frn")
    assert (chain.brings, chain.places) == ("tlu", ("pre", "preact"))
    assert create("lrn+ln").placement == "post"
    assert create("ws+evonorm_s0").own_activation
    assert create("ws+bn").uses_batch and not create("ws+gn").uses_batch
    assert create("gn+in", **{"in": {"track": True}}).has_modes()
    assert not create("gn+in").has_modes()
    assert create("ws+gn").memory_format == "contiguous"


def test_options_are_known_by_dotted_names_without_torch():
    options = registry.facts("norm", "ws+gn").options
    assert list(options) == ["ws.eps", "gn.groups", "gn.group_size", "gn.eps", "gn.affine"]
    assert options["gn.eps"].default == 1e-5


def test_a_chain_is_a_value():
    chain = create("ws+gn", gn={"groups": 2})
    assert pickle.loads(pickle.dumps(chain)) == chain == create("ws+gn", gn={"groups": 2})
    assert chain != create("ws+gn", gn={"groups": 3})


def test_the_activation_is_that_of_the_member_that_brings_one():
    chain, tanh = create("ws+frn"), nn.Tanh()
    assert type(chain.activation(None, 4, 2)).__name__ == "TLU"
    assert chain.activation(tanh, 4, 2) is tanh
    assert isinstance(create("ws+gn").activation(None, 4, 2), nn.ReLU)


def test_over_time_each_member_counts_its_own_steps():
    over = create("ln+bn").over_time(6, 3)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    for t in range(3):
        over(x * (t + 1) + t, t)
    assert len(over["ln"].layers) == 1 and len(over["bn"].layers) == 3
    over.eval()
    assert not over(x, 0).equal(over(x, 2))
    assert over(x, 2).equal(over(x, 7))


def test_a_member_that_clips_gradients_does_so_in_a_chain():
    chain = create("agc+bn", agc={"factor": 1e-3})
    model = unit(chain)
    model(images()).square().sum().backward()
    before = model[0].linear.weight.grad.clone()
    chain.after_backward(model)
    alone = unit(create("bn"))
    alone(images()).square().sum().backward()
    create("agc", factor=1e-3).after_backward(alone)
    assert model[0].linear.weight.grad.equal(alone[0].linear.weight.grad)
    assert not model[0].linear.weight.grad.equal(before)


def test_modules_with_a_hook_are_called_once_per_step():
    chain = create("agc+bin+bn")
    model = unit(chain)
    calls = []
    model[0].norm.bn.after_step = lambda: calls.append(1)
    with torch.no_grad():
        model[0].norm.bin.gate.fill_(1.5)
    chain.after_step(model)
    assert model[0].norm.bin.gate.max() == 1 and calls == [1]


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("ws+wn", {}, "norm=ws.wn: ws and wn both replace the linear layer\n  try: norm=ws"),
        ("cbn+gn+ws", {}, "cbn and ws both replace the linear layer\n  try: norm=cbn.gn"),
        ("mabn+ws", {}, "mabn and ws both replace the linear layer"),
        ("frn+evonorm_s0", {}, "frn and evonorm_s0 both bring an activation\n  try: norm=frn"),
        ("ws+gm", {}, "norm=ws.gm: no norm is called 'gm'\n  try: norm=ws.gn"),
        ("ws+group", {}, "no norm is called 'group'\n  try: norm=ws.gn"),
        ("gn+gn", {}, "names a norm twice\n  try: norm=gn"),
        ("ws+gn", {"eps": 1.0}, "norm.eps=1.0: ws.gn has no member .*\n  try: norm.ws.eps="),
        ("ws+gn", {"bn": {}}, "has no member of this name\n  try: options of ws and gn"),
        ("ws+gn", {"gn": 3}, "norm.gn=3: is not a set of options of gn"),
        ("ws+gn", {"gn": {"eps": -1.0}}, "norm.gn.eps=-1.0: .*\n  try: norm.gn.eps=0"),
        ("ws+gn", {"gn": {"group": 2}}, "norm.gn.group=2: .*\n  try: norm.gn.groups="),
    ],
)
def test_what_cannot_stand_together_is_refused(name, options, text):
    with pytest.raises(NormError, match=text):
        create(name, **options)


def test_a_member_without_the_replacement_stands_beside_one_with_it():
    assert create("mabn+ws", mabn={"centre": False}).names == ("mabn", "ws")


def test_a_refusal_in_the_model_names_the_member():
    with pytest.raises(NormError, match=r"norm.gn.groups=4: 6 channels .*\n  try: norm.gn.groups="):
        create("ws+gn", gn={"groups": 4}).layer(6, 2)


def warned(name, model=None, **options):
    return [each.subject for each in create(name, **options).warnings(model or nn.Identity())]


def test_ws_warns_unless_a_norm_of_features_stands_beside_it():
    assert warned("ws") == ["norm=ws"]
    assert warned("ws+agc") == ["norm=ws"]
    assert warned("ws+gn") == warned("ws+evonorm_s0") == []


def test_frn_warns_behind_dense_layers_alone():
    norm = create("frn")
    assert warned("frn", nn.Sequential(norm.layer(4, 2), norm.layer(4, 1))) == []
    assert warned("frn", nn.Sequential(norm.layer(4, 2), norm.layer(4, 0))) == ["norm=frn"]


def test_the_way_out_of_two_parts_for_one_place_is_the_chain_without_the_second():
    with pytest.raises(NormError, match=r"wn and ws both .*\n  try: norm=wn\+gn"):
        create("wn+ws+gn")


class Acting(nn.Module):
    """A module with the hooks of a step, which counts their calls."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def after_backward(self):
        self.calls.append("backward")

    def after_step(self):
        self.calls.append("step")


@pytest.mark.parametrize("name", ["gn", "ws+gn", "ws+agc"])
def test_the_hooks_of_a_step_reach_the_modules_that_have_them(name):
    model, norm = nn.Sequential(Acting(), nn.Identity()), create(name)
    norm.after_backward(model)
    norm.after_step(model)
    assert model[0].calls == ["backward", "step"]


@pytest.mark.parametrize(
    ("name", "kind"), [("ws+agc", "ActingChain"), ("ws+gn", "Chain"), ("agc+gn", "ActingChain")]
)
def test_a_chain_acts_in_a_step_only_with_a_member_that_does(name, kind):
    assert type(create(name)).__name__ == kind


def test_the_layer_that_wn_replaces_keeps_its_own_weight():
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    replaced = create("wn", data_init=False).linear(layer)
    with torch.no_grad():
        replaced.v.add_(1)
    assert layer.weight.equal(before)
