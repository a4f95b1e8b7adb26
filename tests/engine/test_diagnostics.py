"""What `diagnose=full` tells of each layer, against hand computations in float64."""

import copy
import io
import json
import math
from collections import OrderedDict
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contracts.cases import create, default_dtype, oracle_of, own
from engine.test_train import config, kinds
from PIL import Image
from torch import nn

from normbench import norms
from normbench.cli import plot
from normbench.display.drawing import arm_of
from normbench.engine import diagnostics
from normbench.engine.diagnostics import look
from normbench.inits._base import initialize
from normbench.norms._base import Running
from normbench.norms._modes import update_bn
from normbench.norms._units import Unit, UnitBuilder, apply
from normbench.parts import registry
from normbench.runs import reader
from normbench.runs.job import Job
from normbench.runs.reader import read_rows, read_status
from normbench.runs.run import run
from normbench.runs.tensorboard import CHARTS, LAYER_CHARTS, load_tensorboard
from normbench.runtime import rng

SHAPE = (1, 3, 2)
RUNNING = [name for name in own("norm") if registry.facts("norm", name).constants["running"]]
OWN = [name for name in own("norm") if registry.facts("norm", name).constants["own_activation"]]


def build(model="mlp", norm="none", shape=SHAPE, options=None, **how):
    """A small model in float64 with random weights and biases."""
    made = create(norm)
    part = registry.find("model", model)(**({"width": 4} if options is None else options))
    with default_dtype(torch.float64):
        built = part.build(UnitBuilder(made, **how), shape, 3)
        initialize(built, registry.find("init", "kaiming_normal")(), "tanh", seed=0)
        apply(made, built)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.5, generator=generator)
    return built.train()


def probe(count=12, shape=SHAPE, seed=2, classes=3):
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 + 1.5 * torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (count,), generator=generator)


def seen(model, *batches):
    """What is told of each layer: numbers by path, in the order of the tags."""
    layers = {}
    for tag, value in look(model, batches, nullcontext).items():
        room, place, quantity = tag.split("/")
        assert room == "layer"
        if isinstance(value, str):  # a histogram
            continue
        layers.setdefault(place.partition("-")[2], {})[quantity] = value
    return layers


def numbers(found):
    return [value for value in found.values() if not isinstance(value, str)]


def weights(model):
    return {name: each.detach().clone() for name, each in model.named_parameters()}


def dense(p, path, x):
    return x @ p[f"{path}.weight"].T + p[f"{path}.bias"]


def length(x):
    return math.sqrt(float(x.square().sum()))


def deviation(x):
    return math.sqrt(float((x - x.mean()).square().mean()))


def acting(act, weight=1.0):
    """One unit per input with this activation, and a classifier: inputs (N, 1)."""
    linear, head = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 2).double()
    linear.weight.data.fill_(weight)
    unit = Unit([("linear", linear), ("act", act.double())])
    return nn.Sequential(OrderedDict(unit=unit, head=head))


def shares(act, values):
    """Saturated share and share in the linear zone of an activation at these inputs."""
    x = torch.tensor(values, dtype=torch.float64).unsqueeze(1)
    found = seen(acting(act), (x, torch.zeros(len(x), dtype=torch.int64)))["unit"]
    return found["saturated"] * len(x), found["linear_zone"] * len(x)


def test_activations_are_told_by_the_moments_of_the_whole_layer():
    model, (x, y) = build(activation="tanh"), probe()
    p, h, found = weights(model), x.flatten(1), seen(model, (x, y))
    for path in ("layer1", "layer2", "layer3"):
        z = dense(p, f"{path}.linear", h)
        h = z.tanh()
        expected = [float(z.mean()), deviation(z), float(h.mean()), deviation(h)]
        names = ("pre_mean", "pre_std", "act_mean", "act_std")
        assert [found[path][name] for name in names] == pytest.approx(expected, rel=1e-12)


def test_gradients_are_those_of_the_mean_loss_by_weights_and_outputs():
    model, (x, y) = build(activation="tanh", options={"depth": 2, "width": 4}), probe()
    p, found = weights(model), seen(model, (x, y))
    one = dense(p, "layer1.linear", x.flatten(1)).tanh()
    two = dense(p, "layer2.linear", one).tanh()
    logits = dense(p, "head", two)
    by_logits = (logits.softmax(1) - F.one_hot(y, 3)) / len(x)
    by_two = by_logits @ p["head.weight"]
    by_sum = by_two * (1 - two.square())
    by_one = by_sum @ p["layer2.linear.weight"]
    expected = {
        "head": (by_logits, by_logits.T @ two),
        "layer2": (by_two, by_sum.T @ one),
        "layer1": (by_one, (by_one * (1 - one.square())).T @ x.flatten(1)),
    }
    for path, (by_output, by_weight) in expected.items():
        assert found[path]["output_grad_norm"] == pytest.approx(length(by_output), rel=1e-12)
        assert found[path]["grad_norm"] == pytest.approx(length(by_weight), rel=1e-12)


def test_the_weight_norm_is_that_of_the_weight_without_its_bias():
    model = build()
    found, p = seen(model, probe()), weights(model)
    assert found["layer2"]["weight_norm"] == pytest.approx(length(p["layer2.linear.weight"]))
    assert found["head"]["weight_norm"] == pytest.approx(length(p["head.weight"]))


def test_without_batch_statistics_it_makes_no_difference_how_the_probe_is_cut():
    model, (x, y) = build(norm="ln", activation="gelu"), probe()
    whole = look(model, [(x, y)], nullcontext)
    parts = look(model, [(x[:5], y[:5]), (x[5:6], y[5:6]), (x[6:], y[6:])], nullcontext)
    assert parts.keys() == whole.keys()
    assert numbers(parts) == pytest.approx(numbers(whole), rel=1e-9)


def test_each_batch_of_the_probe_has_its_own_statistics_as_in_training():
    model, (x, y) = build(norm="bn", options={"depth": 1, "width": 4}), probe()
    z = x.flatten(1) @ weights(model)["layer1.linear.weight"].T
    parts = [part - part.mean(0) for part in z.split(6)]
    normed = torch.cat([part / (part.square().mean(0) + 1e-5).sqrt() for part in parts])
    normed = normed + weights(model)["layer1.norm.bias"]
    found = seen(model, (x[:6], y[:6]), (x[6:], y[6:]))["layer1"]
    assert found["pre_std"] == pytest.approx(deviation(normed), rel=1e-9)
    assert found["zeros"] == pytest.approx(float((normed <= 0).double().mean()))


def activation(name):
    return registry.find("activation", name)().build(1, 0)


@pytest.mark.parametrize(
    ("name", "values", "saturated", "linear"),
    [
        # 4 s (1 - s): 0.1 at 3.64, 0.9 at 0.65
        ("sigmoid", [-9, -3.7, -3.6, -0.7, -0.6, 0, 0.6, 3.6, 3.7], 3, 3),
        # 1 - tanh^2: 0.1 at 1.82, 0.9 at 0.33
        ("tanh", [-2, -1.8, -0.34, -0.32, 0, 1.8, 1.83], 2, 2),
        ("relu", [-2, -1, 0, 0.5, 3], 3, 2),
        ("leaky_relu", [-2, -1, 0.5, 3, 4], 0, 3),
        # its slope: 0 at -0.75, -0.13 at -1.41, 1/2 at 0, 1.13 at 1.41, 1.02 = 0.9 x 1.13 at 2.6
        ("gelu", [-5, -0.75, -1.41, 0, 1, 1.41, 2.5, 9], 2, 3),
        # its slope: 0 at -1.28, 1/2 at 0, 1.10 at 2.4, 1 = 0.91 x 1.10 at 20
        ("silu", [-20, -1.28, 0, 2.4, 20], 2, 2),
        ("identity", [-9, 0, 9], 0, 3),
    ],
)
def test_saturated_and_linear_shares_go_by_the_derivative(name, values, saturated, linear):
    assert shares(activation(name), values) == pytest.approx((saturated, linear))


def test_a_threshold_unit_is_flat_below_its_threshold_and_half_steep_on_it():
    act = activation("tlu")
    act.tau.data.fill_(0.5)
    assert shares(act, [-1, 0.25, 0.5, 0.75]) == pytest.approx((2, 1))


def test_what_a_norm_makes_of_relu_saturates_where_relu_does():
    act = norms.create("normprop").activation(None, 1, 0)
    assert shares(act, [-1, 0, 0.5, 3]) == pytest.approx((2, 2))


@pytest.mark.parametrize("name", registry.names("activation"))
def test_the_largest_slope_of_each_activation_is_known(name):
    act = activation(name).double()
    x = torch.linspace(-8, 8, 160_001, dtype=torch.float64).unsqueeze(1).requires_grad_()
    (slope,) = torch.autograd.grad(act(x).sum(), x)
    assert diagnostics._steepest(act) == pytest.approx(float(slope.abs().max()), rel=1e-9)


def test_zeros_are_counted_behind_the_activation():
    x = torch.tensor([[-1.0], [0.0], [2.0], [-3.0]], dtype=torch.float64)
    found = seen(acting(nn.ReLU()), (x, torch.tensor([0, 1, 0, 1])))["unit"]
    assert found["zeros"] == 0.75


@pytest.mark.parametrize("name", [*OWN, "frn"])
def test_an_activation_of_a_norm_has_moments_in_every_place(name):
    model, x = build("resnet20", name, (3, 8, 8), {}), probe(6, (3, 8, 8))
    found = seen(model, x)
    assert {"pre_std", "act_std"} <= found["stage1.block1.one"].keys()
    assert {"pre_std", "act_std"} <= found["stage1.block1.join"].keys()


def test_an_activation_in_place_is_told_by_what_it_was_given():
    x = torch.tensor([[-1.0], [0.0], [2.0], [-3.0]], dtype=torch.float64)
    batch = x, torch.tensor([0, 1, 0, 1])
    torch.manual_seed(0)
    model = acting(nn.ReLU())
    other = copy.deepcopy(model)
    other.unit.act.inplace = True
    assert seen(other, batch) == seen(model, batch)


def test_without_an_activation_in_between_nothing_changes():
    found = seen(build(activation="identity"), probe())["layer2"]
    assert (found["act_mean"], found["act_std"]) == (found["pre_mean"], found["pre_std"])
    assert (found["saturated"], found["linear_zone"]) == (0.0, 1.0)


def test_a_net_of_nothing_but_a_classifier_has_its_gradients():
    model = nn.Sequential(OrderedDict(flatten=nn.Flatten(), head=nn.Linear(6, 3).double()))
    assert seen(model, probe()).keys() == {"head"}
    assert seen(model, probe())["head"].keys() == {"weight_norm", "grad_norm", "output_grad_norm"}


def test_constant_outputs_have_deviation_0_and_no_error_of_statistics():
    model = build(norm="bn")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "linear" in name:
                parameter.zero_()
    found = seen(model, probe())
    assert found["layer1"]["pre_std"] == pytest.approx(deviation(model.layer1.norm.bias.detach()))
    assert found["layer1"]["grad_norm"] == 0.0
    assert not {"stat_error", "stat_log_var"} & found["layer1"].keys()


def test_gradients_whose_squares_vanish_in_float32_still_have_a_norm():
    model = acting(nn.Identity()).float()
    model.head.weight.data.fill_(0)
    model.head.weight.data[0] = 1e-30
    found = seen(model, (torch.ones(4, 1), torch.tensor([0, 0, 0, 1])))["unit"]
    assert found["output_grad_norm"] == pytest.approx(length(torch.tensor([1, 1, 1, 3])) / 8e30)


def test_running_statistics_are_compared_with_those_of_the_whole_probe():
    model, (x, y) = build(norm="bn", options={"depth": 1, "width": 2}), probe()
    layer = model.layer1.norm
    mean, var = torch.tensor([0.5, -1.0]).double(), torch.tensor([2.0, 0.25]).double()
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(var)
    z = x.flatten(1) @ weights(model)["layer1.linear.weight"].T
    unbiased = (z - z.mean(0)).square().sum(0) / (len(z) - 1)
    error = (mean - z.mean(0)) / unbiased.sqrt()
    found = seen(model, (x[:6], y[:6]), (x[6:], y[6:]))["layer1"]
    expected = math.sqrt(float(error.square().mean()))
    assert found["stat_error"] == pytest.approx(expected, rel=1e-9)
    assert found["stat_log_var"] == pytest.approx(float((var / unbiased).log().mean()), rel=1e-9)


def test_a_running_mean_alone_is_measured_in_deviations_of_what_the_layer_is_given():
    model, (x, y) = build(norm="mean", options={"depth": 1, "width": 2}), probe()
    z = x.flatten(1) @ weights(model)["layer1.linear.weight"].T
    error = z.mean(0) / ((z - z.mean(0)).square().sum(0) / (len(z) - 1)).sqrt()
    found = seen(model, (x, y))["layer1"]
    assert found["stat_error"] == pytest.approx(math.sqrt(float(error.square().mean())), rel=1e-9)
    assert "stat_log_var" not in found


@pytest.mark.parametrize("name", RUNNING)
def test_running_statistics_of_the_probe_itself_are_without_error(name):
    model, (x, y) = build("cnn", name, (1, 4, 4), {}), probe(40, (1, 4, 4))
    before = seen(model, (x, y))
    update_bn(model, [x])
    after = seen(model, (x, y))
    for path in ("one", "two"):
        told = {"stat_error", "stat_log_var"} & after[path].keys()
        assert told
        assert [after[path][each] for each in told] == pytest.approx([0] * len(told), abs=1e-5)
        assert any(abs(before[path].get(each, 1)) > 1e-3 for each in told)


def test_a_recurrent_cell_counts_all_time_steps_together():
    model, (x, y) = build("rnn", activation="relu"), probe()
    p, found = weights(model), seen(model, (x, y))
    h = torch.zeros(len(x), 4, dtype=torch.float64)
    sums = []
    for t in range(SHAPE[1]):
        z = dense(p, "input.linear", x[:, 0, t]) + h @ p["hidden.linear.weight"].T
        h = z.relu()
        sums.append(z)
    z = torch.stack(sums)
    assert list(found) == ["input", "hidden", "act", "head"]
    assert found["act"]["pre_mean"] == pytest.approx(float(z.mean()), rel=1e-12)
    assert found["act"]["pre_std"] == pytest.approx(deviation(z), rel=1e-12)
    assert found["act"]["act_std"] == pytest.approx(deviation(z.relu()), rel=1e-12)
    assert found["act"]["saturated"] == pytest.approx(float((z <= 0).double().mean()))


def test_the_gradient_by_the_output_of_a_cell_is_that_of_all_time_steps():
    model, (x, y) = build("rnn", activation="relu"), probe()
    p, found = weights(model), seen(model, (x, y))
    for each in p.values():
        each.requires_grad_()
    h, states = torch.zeros(len(x), 4, dtype=torch.float64), []
    for t in range(SHAPE[1]):
        z = dense(p, "input.linear", x[:, 0, t]) + h @ p["hidden.linear.weight"].T
        h = z.relu()
        states.append(h)
    loss = F.cross_entropy(dense(p, "head", h), y)
    by_states = torch.autograd.grad(loss, states, retain_graph=True)
    (by_hidden,) = torch.autograd.grad(loss, [p["hidden.linear.weight"]])
    expected = length(torch.stack(by_states))
    assert found["act"]["output_grad_norm"] == pytest.approx(expected, rel=1e-12)
    assert found["hidden"]["grad_norm"] == pytest.approx(length(by_hidden), rel=1e-12)


def test_statistics_of_a_cell_are_those_of_all_its_time_steps():
    model, (x, y) = build("rnn", "bn"), probe()
    found = seen(model, (x, y))
    update_bn(model, [x])
    assert found["norm"].keys() == {"output_grad_norm", "stat_error", "stat_log_var"}
    assert seen(model, (x, y))["norm"]["stat_error"] == pytest.approx(0, abs=1e-9)


def test_layers_are_numbered_in_the_order_in_which_they_run():
    model = build("resnet20", "none", (3, 8, 8), {}, placement="preact")
    tags = look(model, [probe(2, (3, 8, 8))], nullcontext)
    names = list(dict.fromkeys(tag.split("/")[1] for tag in tags))
    assert names[:3] == ["01-stem", "02-stage1.block1.one", "03-stage1.block1.two"]
    assert names[-2:] == ["22-finish", "23-head"]
    assert names == sorted(names)


@pytest.mark.parametrize("name", own("model"))
def test_every_unit_and_the_classifier_of_every_model_is_told_of(name):
    shape = oracle_of("model", name).SMALL
    model = build(name, "bn", shape, {})
    units = {path for path, each in model.named_modules() if isinstance(each, Unit)}
    found = seen(model, probe(4, shape))
    assert units | {"head"} <= found.keys()
    assert all(math.isfinite(value) for layer in found.values() for value in layer.values())


@pytest.mark.parametrize("norm", [*own("norm"), "ws+gn"])
def test_it_leaves_gradients_buffers_modes_and_random_numbers_as_they_are(norm):
    model = build("cnn", norm, (1, 6, 6), {}, dropout=0.2)
    flat = registry.find("optimizer", "sgd")().bind(model)
    flat.grad.fill_(3.0)
    model.one.eval()
    generator = model.one.drop.generator = torch.Generator().manual_seed(5)
    state, modes = copy.deepcopy(model.state_dict()), [each.training for each in model.modules()]
    views = [each.grad for each in model.parameters()]
    random = torch.get_rng_state(), generator.get_state()
    plain = [each.plain for each in model.modules() if isinstance(each, Running)]
    look(model, [probe(8, (1, 6, 6))], nullcontext)
    assert all(torch.equal(state[key], each) for key, each in model.state_dict().items())
    assert [each.training for each in model.modules()] == modes
    assert all(one.grad is other for one, other in zip(model.parameters(), views, strict=True))
    assert bool((flat.grad == 3).all())
    assert torch.equal(torch.get_rng_state(), random[0])
    assert torch.equal(generator.get_state(), random[1])
    assert [each.plain for each in model.modules() if isinstance(each, Running)] == plain
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


CELLS = [
    ["norm=bn", "dropout=0.3"],
    ["norm=brn"],
    ["norm=mabn"],
    ["norm=cmbn", "accumulate=2"],
    ["norm=cbn", "model=cnn"],
    ["norm=wn"],
    ["norm=cosine", "model=cnn"],
    ["norm=ws+gn", "model=cnn", "precision=bf16"],
    ["norm=bn", "precision=bf16", "accumulate=4"],
    ["norm=agc", "activation=tlu"],
    ["norm=evonorm_b0"],
    ["norm=bn", "model=rnn"],
    ["norm=ln", "model=lstm"],
    ["norm=bn", "eval_stats=dataset"],
]


def train_mode(*words):
    given = {word.partition("=")[0] for word in words}
    model = [] if "model" not in given or "model=cnn" in words else ["model.width=16"]
    job = Job(config("steps=6", "eval_every=0.05", "log_every=2", "batch=32", *model, *words))
    return list(job.rows()), job.state_sha256()


@pytest.mark.parametrize("words", CELLS, ids=" ".join)
def test_a_run_in_full_has_the_bits_of_a_light_one(words):
    light, digest = train_mode(*words, "diagnose=light")
    full, same = train_mode(*words, "diagnose=full")
    assert [row for row in full if row.kind != "layers"] == light
    assert same == digest
    assert len(kinds(full, "layers")) == len(kinds(full, "val")) == 3


def test_off_leaves_out_gap_and_gradient_norm_and_nothing_else():
    light, digest = train_mode("norm=bn", "diagnose=light")
    off, same = train_mode("norm=bn", "diagnose=off")
    assert same == digest
    assert {"gap/accuracy", "optim/grad_norm"} <= {key for row in light for key in row.values}
    for one, other in zip(light, off, strict=True):
        left = {"gap/accuracy", "optim/grad_norm"}
        assert other.values == {key: one.values[key] for key in one.values.keys() - left}


def test_a_row_on_the_layers_follows_each_validation():
    rows, _ = train_mode("diagnose=full")
    order = [(row.kind, row.step) for row in rows if row.kind != "train"]
    expected = [(kind, step) for step in (0, 3, 6) for kind in ("val", "layers")]
    assert order[:-2] == expected
    told = kinds(rows, "layers")[0].values
    assert all(type(told[tag]) is (str if "histogram" in tag else float) for tag in told)


def test_the_probe_is_validation_images_in_batches_as_in_training(monkeypatch):
    job = Job(config("batch=128", "accumulate=2", "diagnose=full"))
    found = []
    monkeypatch.setattr(
        diagnostics, "look", lambda model, batches, cast: found.append(batches) or {}
    )
    list(job.evaluator.validation(0))
    assert [len(y) for _, y in found[0]] == [64] * 6
    order = job.train.sampling.sampler.batches(
        job.evaluator.val.labels, 128, rng.derive(0, "evaluation"), 0
    )
    expected = job.evaluator.val.gather(order.flatten())[0]
    assert torch.equal(torch.cat([x for x, _ in found[0]]), expected)


def test_the_record_has_the_layers_as_rows_but_not_among_the_results(tmp_path):
    words = ("diagnose=full", "steps=4", "norm=bn", "eval_every=1", f"outputs={tmp_path}")
    done = config(*words)
    run(done)
    rows = read_rows(done.directory)
    assert [row.kind for row in rows] == ["val", "layers", "train", "val", "layers", "test", "end"]
    assert "layer/1-layer1/stat_error" in rows[1].values
    assert "batch/global" in rows[0].values and "batch/global" not in rows[1].values
    final = read_status(done.directory)["final"]
    assert "gap/accuracy" in final
    assert not [name for name in final if name.startswith("layer/")]


@pytest.mark.parametrize(("word", "more"), [("full", list(LAYER_CHARTS)), ("light", [])])
def test_tensorboard_has_the_layers_and_their_charts_in_full_runs(tmp_path, word, more):
    from runs.test_tensorboard import loaded, scalars, summaries

    done = config(f"diagnose={word}", "steps=2", "norm=bn", f"outputs={tmp_path}")
    run(done)
    (path,) = done.directory.glob("events*")
    events = loaded(path)
    tags = {tag for tag, _, _ in scalars(events)}
    assert ("layer/3-layer3/act_std" in tags) == bool(more)
    content = summaries(events)["custom_scalars__config__"].tensor.string_val[0]
    layout = load_tensorboard().Layout.FromString(content)
    assert [category.title for category in layout.category] == [*CHARTS, *more]


def test_what_is_not_finite_is_null_in_the_record(tmp_path):
    words = ("diagnose=full", "norm=none", "optimizer.lr=1e20", "warmup=0", "steps=6")
    done = config(*words, "log_every=6", "eval_every=0.01", f"outputs={tmp_path}")
    run(done)
    lines = (done.directory / "metrics.jsonl").read_text().splitlines()
    *_, last, end = [json.loads(line) for line in lines]
    assert last["kind"] == "val" and last["val/loss"] is None
    assert (end["state"], end["bad_step"], end["bad_quantity"]) == ("diverged", 1, "val/loss")


def drawn(tmp_path, *words):
    """The figure of layers that `normbench plot layers` writes, and the arms of its lines."""
    options = plot.parser().parsed(["layers", str(tmp_path), "--by", "init", *words])
    gathered = plot.gathered(options, "normbench plot")
    (block,) = gathered.answer.layout.blocks.values()
    picture = gathered.picture("layers")
    return picture and dict(
        zip(map(arm_of, block.groups), picture.figure.axes[0].lines, strict=True)
    )


def test_the_plot_has_a_line_of_all_layers_in_order_for_each_configuration(tmp_path):
    words = ("diagnose=full", "steps=1", "model.depth=11", "norm=none", f"outputs={tmp_path}")
    for init in ("normal", "default"):
        for seed in (0, 1):
            run(config(*words, f"init={init}", f"seed={seed}"))
    lines = drawn(tmp_path, "--step", "0")
    assert list(lines) == ["default", "normal"]
    (folder,) = {
        each.parent.parent
        for each in tmp_path.rglob("metrics.jsonl")
        if reader.read_config(each.parent)["experiment"]["init"]["name"] == "normal"
    }
    rows = [read_rows(folder / f"seed{seed}")[1].values for seed in (0, 1)]
    for place in (2, 11):
        one, other = (row[f"layer/{place:02d}-layer{place}/act_std"] for row in rows)
        assert lines["normal"].get_ydata()[place - 1] == pytest.approx(math.sqrt(one * other))
    assert drawn(tmp_path, "--step", "7") is None
    last = drawn(tmp_path, "--quantity", "zeros")["default"].get_ydata()
    rows = [reader.read_rows(path.parent)[-3].values for path in tmp_path.rglob("metrics.jsonl")]
    assert len(last) == 11 and any(row["layer/01-layer1/zeros"] > 0 for row in rows)


def test_a_histogram_counts_the_values_in_equal_parts_of_their_range():
    model, (x, y) = build(norm="bn"), probe()
    tags = look(model, [(x, y)], nullcontext)
    z = x.flatten(1) @ weights(model)["layer1.linear.weight"].T
    beta = weights(model)["layer1.norm.bias"]
    hidden = torch.relu((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() + beta)
    low, high, *counts = map(float, tags["layer/1-layer1/act_histogram"].split())
    expected, edges = np.histogram(hidden.detach().numpy(), 30)
    assert (low, high) == pytest.approx((edges[0], edges[-1]), rel=1e-5)
    assert sum(counts) == hidden.numel() and np.abs(counts - expected).sum() <= 2
    assert tags["layer/1-layer1/gamma_histogram"].split()[:2] == ["0.5", "1.5"]  # all are 1
    ends = [f"{each:.6g}" for each in (beta.min(), beta.max())]
    assert tags["layer/1-layer1/beta_histogram"].split()[:2] == ends
    assert not [tag for tag in tags if "head" in tag and "gamma" in tag]


def test_tensorboard_has_the_histograms_the_first_batch_and_the_layers_over_depth(tmp_path):
    from runs.test_tensorboard import loaded, summaries

    done = config("diagnose=full", "steps=2", "norm=gn", "batch=6", f"outputs={tmp_path}")
    run(done)
    (path,) = done.directory.glob("events*")
    found = summaries(loaded(path))
    plugins = {tag: value.metadata.plugin_data.plugin_name for tag, value in found.items()}
    assert plugins["layer/1-layer1/gamma"] == plugins["layer/2-layer2/act"] == "histograms"
    assert plugins["input/batch"] == plugins["layers/act_std"] == "images"
    width, height, png = found["input/batch"].tensor.string_val
    picture = np.asarray(Image.open(io.BytesIO(png)))
    assert picture.shape == (int(height), int(width), 3)
    (x, _), (_, _, rows, columns) = next(Job(done).train.epoch(0)), (1, 1, *done.shape[1:])
    side = picture.shape[1] // 3 - 2  # six images are three abreast, with a margin of two
    one = picture[: side * rows // columns, :side, 0]
    scale = side // columns
    pixels = (x[0, 0] - x.min()) / (x.max() - x.min()) * 255
    assert np.abs(one[::scale, ::scale] - pixels.numpy()).max() <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu_it_tells_what_it_tells_on_the_cpu():
    model, (x, y) = build("cnn", "bn", (1, 8, 8), {}), probe(16, (1, 8, 8))
    expected = look(model, [(x, y)], nullcontext)
    found = look(model.cuda(), [(x.cuda(), y.cuda())], nullcontext)
    assert list(found) == list(expected)
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-6)
