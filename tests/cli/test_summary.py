"""The layer table: exact screens of small nets, and what counts as a layer, a parameter, a norm."""

import io
from collections import OrderedDict
from dataclasses import asdict

import pytest
import torch
from contracts.cases import own
from torch import nn

from normbench import norms
from normbench.cli import summary
from normbench.display.screen import Screen
from normbench.norms._units import UnitBuilder, apply
from normbench.parts import registry
from normbench.runs import layers

SHAPE = (1, 28, 28)
EXACT = """
 layer           output shape       parameters   buffers
 Conv2d-1        [-1, 16, 28, 28]          144         0
 BatchNorm2d-2   [-1, 16, 28, 28]           32        33
 ReLU-3          [-1, 16, 28, 28]            0         0
 MaxPool2d-4     [-1, 16, 14, 14]            0         0
 Conv2d-5        [-1, 32, 14, 14]        4,608         0
 BatchNorm2d-6   [-1, 32, 14, 14]           64        65
 ReLU-7          [-1, 32, 14, 14]            0         0
 MaxPool2d-8     [-1, 32, 7, 7]              0         0
 Linear-9        [-1, 10]               15,690         0
 trainable 20,538   norm 96 (0.5 %)   buffers 98   norm=none: 20,490   \
statistics over 64 x 28 x 28 values
"""
SIDE_BY_SIDE = """
 norm=bn         parameters   buffers   norm=none     parameters   buffers   output shape
 Conv2d-1               144         0   Conv2d-1             160         0   [-1, 16, 28, 28]
 BatchNorm2d-2           32        33                                        [-1, 16, 28, 28]
 ReLU-3                   0         0   ReLU-2                 0         0   [-1, 16, 28, 28]
 MaxPool2d-4              0         0   MaxPool2d-3            0         0   [-1, 16, 14, 14]
 Conv2d-5             4,608         0   Conv2d-4           4,640         0   [-1, 32, 14, 14]
 BatchNorm2d-6           64        65                                        [-1, 32, 14, 14]
 ReLU-7                   0         0   ReLU-5                 0         0   [-1, 32, 14, 14]
 MaxPool2d-8              0         0   MaxPool2d-6            0         0   [-1, 32, 7, 7]
 Linear-9            15,690         0   Linear-7          15,690         0   [-1, 10]
 norm=bn   trainable 20,538   norm 96 (0.5 %)   buffers 98   norm=none: 20,490
 norm=none   trainable 20,490   norm 0 (0.0 %)   buffers 0   norm=none: 20,490
"""


def built(norm, model="cnn", shape=SHAPE, device="cpu", **how):
    """A model with its norm, and its linear layers' parameters before the norm replaced any."""
    with torch.device(device):
        part, chosen = registry.find("model", model)(), norms.create(norm)
        made = part.build(UnitBuilder(chosen, **how), shape, 10)
        linear = layers.linear_parameters(made)
        if device == "cpu":
            for parameter in made.parameters():
                nn.init.normal_(parameter)
        apply(chosen, made)
        return made, linear


def summarized(norm, model="cnn", shape=SHAPE, device="cpu", **how):
    made, linear = built(norm, model, shape, device, **how)
    return layers.summarize(made, built("none", model, shape, device, **how)[0], linear, shape)


def screen(table):
    """What a table looks like without a terminal."""
    out = io.StringIO()
    Screen(out=out).table(table)
    return "\n" + out.getvalue()


def test_the_table_of_the_default_net_is_exact():
    found = summarized("bn")
    assert screen(summary.table(found, summary.statistics(found, 64))) == EXACT


def test_a_model_without_memory_gives_the_same_rows():
    assert summarized("bn", device="meta") == summarized("bn")


def test_two_models_stand_side_by_side_where_their_layers_agree():
    titles = ("norm=bn", "norm=none")
    found = summary.pair(titles, (summarized("bn"), summarized("none")))
    assert screen(found) == SIDE_BY_SIDE


def test_layers_of_different_shapes_are_not_put_side_by_side():
    left, right = (summarized("none", shape=shape).rows for shape in ((1, 28, 28), (1, 8, 28)))
    pairs = summary.aligned(left, right)
    assert [row for row, _ in pairs if row] == left
    assert [row for _, row in pairs if row] == right
    assert [(a.name, b.name) for a, b in pairs if a and b] == [("Linear-7", "Linear-7")]


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_nothing_of_the_model_changes(device):
    model, linear = built("bn", device=device)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    layers.summarize(model, model, linear, SHAPE)
    assert model.training
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    if device == "cpu":
        assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_hooks_are_gone_and_the_mode_is_back_when_the_model_cannot_run():
    model, _ = built("none")
    with pytest.raises(RuntimeError):
        layers.layers(model, (1, 5, 5))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_row_is_plain_data():
    row = summarized("bn").rows[1]
    assert asdict(row) == {
        "name": "BatchNorm2d-2",
        "kind": "BatchNorm2d",
        "path": "one.norm",
        "output_shape": (-1, 16, 28, 28),
        "parameters": 32,
        "buffers": 33,
        "groups": 1,
    }


def test_the_number_of_groups_stands_behind_the_name():
    found = summarized("gn")
    assert [row.groups for row in found.rows if row.path.endswith("norm")] == [8, 8]
    assert "\n GroupNorm-2 (8 groups)   [-1, 16, 28, 28]           32" in screen(
        summary.table(found)
    )


def test_layers_are_numbered_in_the_order_in_which_they_run():
    model = nn.Sequential(OrderedDict(last=nn.Linear(3, 2), first=nn.Linear(4, 3)))
    model.forward = lambda x: model.last(model.first(x.flatten(1)).tanh())
    rows = layers.layers(model, (1, 2, 2))
    assert [(row.name, row.path) for row in rows] == [("Linear-1", "first"), ("Linear-2", "last")]


def test_what_is_shared_is_counted_once_and_a_layer_that_runs_twice_has_one_row():
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    two.weight = one.weight
    rows = layers.layers(nn.Sequential(nn.Flatten(), one, nn.ReLU(), one, two), (1, 2, 2))
    assert [(row.name, row.parameters) for row in rows] == [
        ("Linear-1", 20),
        ("ReLU-2", 0),
        ("Linear-3", 4),
    ]


def test_a_layer_with_tensors_of_its_own_is_one_row_with_all_inside_it():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.scale = nn.Linear(4, 2), nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self.inner(x) * self.scale

    rows = layers.layers(nn.Sequential(nn.Flatten(), Scaled()), (1, 2, 2))
    assert [(row.name, row.parameters) for row in rows] == [("Scaled-1", 12)]


def test_the_layers_of_a_norm_at_its_time_steps_are_one_row():
    found = summarized("bn", model="rnn")
    rows = {row.path: row for row in found.rows}
    assert rows["norm"].name == "BatchNorm1d-3"
    assert (rows["norm"].parameters, rows["norm"].buffers) == (2 * 64, 28 * (2 * 64 + 1))
    assert [row.kind for row in found.rows] == ["Linear", "Linear", "BatchNorm1d", "Tanh", "Linear"]


@pytest.mark.parametrize(
    ("norm", "model", "expected"),
    [
        ("none", "cnn", 0),
        ("bn", "cnn", 2 * 48),
        ("gn", "cnn", 2 * 48),
        ("frn", "cnn", 3 * 48),  # weight, bias, threshold
        ("wn", "cnn", 48),  # g
        ("cosine", "cnn", 0),
        ("cbn", "cnn", 2 * 48),
        ("bn", "lstm", 2 * (4 * 64 + 64)),
    ],
)
def test_the_norm_owns_what_the_plain_layers_do_not_have(norm, model, expected):
    found = summarized(norm, model)
    assert found.norm == expected
    assert found.without == summarized("none", model).trainable


def test_a_threshold_that_the_run_names_is_not_the_norms():
    assert summarized("bn", activation="tlu").norm == 2 * 48


def test_a_norm_that_leaves_out_a_given_bias_owns_nothing_for_it():
    assert summarized("cosine", bias="on").norm == 0


def test_the_totals_are_those_of_torch():
    model, _ = built("bn", model="resnet20")
    found = summarized("bn", model="resnet20")
    assert found.trainable == sum(each.numel() for each in model.parameters())
    assert found.buffers == sum(each.numel() for each in model.buffers())
    assert found.trainable == sum(row.parameters for row in found.rows)
    assert found.buffers == sum(row.buffers for row in found.rows)


@pytest.mark.parametrize("name", own("model"))
@pytest.mark.parametrize("norm", ["none", "bn", "gn"])
def test_the_rows_of_every_model_add_up_to_its_totals(name, norm):
    found = summarized(norm, name, (3, 32, 32))
    assert found.trainable == sum(row.parameters for row in found.rows)
    assert found.buffers == sum(row.buffers for row in found.rows)
    assert len({row.name for row in found.rows}) == len(found.rows)


@pytest.mark.parametrize(
    ("model", "examples", "text"),
    [
        ("cnn", 64, "statistics over 64 x 28 x 28 values"),
        ("cnn3", 8, "statistics over 8 x 14 x 14 values"),
        ("mlp", 2, "statistics over 2 values"),
        ("rnn", 2, "statistics over 2 values"),
        ("cnn", None, "statistics over 1 example (no batch)"),
    ],
)
def test_the_remark_names_the_values_behind_the_first_statistic(model, examples, text):
    assert summary.statistics(summarized("bn", model), examples) == text
