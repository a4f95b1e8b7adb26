"""Greedy layer-wise pre-training: against its equations, its rows, its cost, and what it leaves.

The reference works in float64, from the equations of a tied auto-encoder and of Adam; the program
works in float32, so that a few steps agree to about 1e-5.
"""

import json
import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts.cases import create
from engine.test_train import kinds
from torch import nn

from normbench.errors import NormbenchError
from normbench.inits._base import InitContext, initialize
from normbench.inits._greedy import Decoder, _drawn, units_of
from normbench.inits.autoencoder import AutoEncoder
from normbench.inits.orthogonal import Orthogonal
from normbench.norms._units import Unit
from normbench.runs import build, run
from normbench.runs.check import check_fit
from normbench.runs.job import Job
from normbench.runs.reader import read_rows, read_status
from normbench.runtime import rng
from normbench.settings import compose

SIGMOID = ("activation=sigmoid", "norm=none", "model.depth=2")
STEPS, RATE = 12, 0.01


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Steps this small wait for further threads longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def chosen(*words):
    """The config of a short run with a short stage, but for what the words say."""
    settings = {"init": "autoencoder", "init.steps": STEPS, "steps": 2, "device": "cpu"}
    settings |= {"data": "synthetic", "model": "mlp"}
    settings |= dict(word.split("=", 1) for word in words)
    if settings["data"] == "synthetic":
        settings.setdefault("data.shape", "[1,8,8]")
    if settings["model"] == "mlp":
        settings.setdefault("model.width", 16)
    if settings["init"] != "autoencoder":
        del settings["init.steps"]
    line = [f"{key}={value}" for key, value in settings.items()]
    (cell,) = compose.Grid(compose.loader()).cells(line, False)
    return cell.config


def job(*words):
    return Job(chosen(*words))


def pretrained(*words):
    """A run that has just been pre-trained, and the rows of that."""
    made = job(*words)
    rows = made.rows()
    found = [next(rows)]
    while found[-1].kind == "pretrain":
        found.append(next(rows))
    return made, found[:-1]


def losses(rows):
    """The losses of each layer, in order."""
    found = {}
    for row in rows:
        ((name, loss),) = row.values.items()
        found.setdefault(name, []).append(loss)
    return found


class Adam:
    """Kingma & Ba 2015, algorithm 1, in float64."""

    def __init__(self, *values):
        self.values, self.step = values, 0
        self.first, self.second = ([np.zeros_like(each) for each in values] for _ in range(2))

    def follow(self, *gradients):
        self.step += 1
        for value, m, v, g in zip(self.values, self.first, self.second, gradients, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            unbiased = m / (1 - 0.9**self.step), v / (1 - 0.999**self.step)
            value -= RATE * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def reference(made, noise):
    """Losses of all steps and the weights of both layers: z = W c + b, h = s(z), x^ = W' h + d."""
    seed, count, results, below = made.config.seed, len(made.train), [], []
    for path in ("layer1", "layer2"):
        layer = made.model.get_submodule(path).linear
        w, b = (each.detach().double().numpy().copy() for each in (layer.weight, layer.bias))
        d, found = np.zeros(w.shape[1]), []
        adam = Adam(w, b, d)
        draws = rng.generator(seed, "pretrain", "order", path, 0)
        order = torch.randperm(count, generator=draws)
        masks = rng.generator(seed, "pretrain", "noise", path, 0)
        for index in order[: STEPS * 64].split(64):
            images = made.train.gather(index)[0].flatten(1)
            x = images.double().numpy()
            for one, bias in below:
                x = sigmoid(x @ one.T + bias)
            keep = np.ones(x.shape)
            if noise:
                size = torch.empty(x.shape) if below else torch.empty(64, 1, 8, 8)
                keep = size.bernoulli_(1 - noise, generator=masks).flatten(1).double().numpy()
            c = x * keep
            h = sigmoid(c @ w.T + b)
            error = h @ w + d - x
            found.append(np.mean(error**2))
            up = 2 * error / error.size
            dz = up @ w.T * h * (1 - h)
            adam.follow(dz.T @ c + h.T @ up, dz.sum(0), up.sum(0))
        below.append((w, b))
        results.append(found)
    return results, below


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_losses_and_weights_follow_the_equations(noise):
    words = (*SIGMOID, f"init.lr={RATE}", f"init.noise={noise}", "log_every=1", "model=mlp")
    before, (made, rows) = job(*words), pretrained(*words)
    if noise:  # the first layer is given flat images, and so is its corruption
        assert made.model.flatten(torch.zeros(1, 1, 8, 8)).shape == (1, 64)
    expected, weights = reference(before, noise)
    for found, told in zip(losses(rows).values(), expected, strict=True):
        np.testing.assert_allclose(found, told, rtol=2e-5)
    for path, (w, b) in zip(("layer1", "layer2"), weights, strict=True):
        layer = made.model.get_submodule(path).linear
        np.testing.assert_allclose(layer.weight.detach().numpy(), w, atol=2e-5)
        np.testing.assert_allclose(layer.bias.detach().numpy(), b, atol=2e-5)


LAYERS = [
    (nn.Linear(7, 5), (4, 7)),
    (nn.Conv2d(3, 6, 3, padding=1), (2, 3, 8, 8)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 8, 7)),
    (nn.Conv2d(3, 4, (5, 3), stride=3, padding=(2, 0), dilation=(1, 2)), (2, 3, 13, 12)),
    (nn.Conv2d(3, 4, 2, stride=4), (2, 3, 11, 9)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda each: str(each))
def test_the_decoder_is_the_transposed_map(layer, shape):
    draws, layer = torch.Generator().manual_seed(0), layer.double()
    x = torch.randn(shape, generator=draws, dtype=torch.float64)
    linear = layer(x) - layer(x * 0)
    h = torch.randn(linear.shape, generator=draws, dtype=torch.float64)
    decoder = Decoder(layer, None)
    back = decoder(h, x.shape)
    assert back.shape == x.shape
    torch.testing.assert_close((back * x).sum(), (linear * h).sum())  # <W' h, x> = <h, W x>
    assert [each is decoder.bias for each in decoder.learned] == [True]
    assert not decoder.bias.any()


@pytest.mark.parametrize("norm", ["wn", "cosine", "ws", "cbn"])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}])
def test_a_decoder_of_its_own_has_the_shape_of_what_a_norm_has_made_of_a_layer(norm, options):
    layer = nn.Conv2d(3, 6, 3, **options)
    made = create(norm, **({"centred": True} if norm == "cosine" else {})).linear(layer)
    decoder = Decoder(made, torch.ones(6, 3, 3, 3))
    with torch.no_grad():
        h = made(torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)))
    assert decoder(h, torch.Size((2, 3, 9, 9))).shape == (2, 3, 9, 9)
    assert len(decoder.learned) == 2


def test_the_own_weight_of_a_decoder_is_drawn_for_each_group_as_a_layer_from_outputs_to_inputs():
    layer, draws = nn.Conv2d(6, 12, 3, groups=3), torch.Generator().manual_seed(0)
    weight = _drawn(layer, Orthogonal(gain=1.0), draws)
    assert weight.shape == layer.weight.shape
    for group in weight.chunk(3):  # (4, 2, 3, 3): two inputs from four outputs at nine places
        rows = group.transpose(0, 1).flatten(1).double()
        torch.testing.assert_close(rows @ rows.T, torch.eye(2).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("tied", ["true", "false"])
@pytest.mark.parametrize(
    "words",
    [
        ["model=mlp", "model.depth=3", "activation=sigmoid", "norm=none"],
        ["model=mlp", "norm=bn"],
        ["model=cnn", "norm=gn"],
        ["model=cnn3", "norm=bn", "activation=tanh"],
        ["model=resnet20", "norm=ln", "placement=preact"],
    ],
    ids=lambda words: words[0] + words[1],
)
def test_each_layer_comes_to_give_its_input_back_better(words, tied):
    made, rows = pretrained(*words, f"init.tied={tied}", "log_every=5", "init.steps=20")
    found = losses(rows)
    assert list(found) == [f"pretrain/{path}/loss" for path in units_of(made.model)]
    for name, (first, *_, last) in found.items():
        assert last < first, name


def test_units_are_taught_in_the_order_of_their_calls():
    _, rows = pretrained("model=resnet20", "init.steps=1")
    names = [name.split("/")[1] for name in losses(rows)]
    assert names[0] == "stem"
    assert len(names) == len(set(names)) == 21  # 19 convolutions and 2 of shortcuts
    assert names[-2:] == ["stage3.block3.one", "stage3.block3.two"]


def test_noise_sets_its_share_of_the_inputs_to_0():
    net = nn.Sequential()
    net.layer = Unit([("linear", nn.Linear(400, 5)), ("act", nn.ReLU())])
    seen = []
    net.layer.linear.register_forward_pre_hook(lambda layer, x: seen.append(x[0]))
    first = torch.ones(64, 400)  # of a thousand images whose values are all 1
    context = InitContext(
        lambda index: torch.ones(len(index), 400), 1000, first, create("none"), nullcontext, 0, 5
    )
    list(AutoEncoder(noise=0.25, steps=4).calibrate(net, context))
    corrupted = torch.cat(seen[1:])
    assert set(corrupted.unique().tolist()) == {0.0, 1.0}
    share, n = (corrupted == 0).double().mean().item(), corrupted.numel()
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / n)


def test_rows_count_steps_and_examples_of_their_own():
    made, rows = pretrained(*SIGMOID, "init.batch=32", "log_every=5")
    assert [row.step for row in rows] == [5, 10, 12, 17, 22, 24]
    assert [row.examples for row in rows] == [32 * row.step for row in rows]
    assert [row.epoch for row in rows] == [round(32 * row.step / 2000, 6) for row in rows]
    names = ["pretrain/layer1/loss"] * 3 + ["pretrain/layer2/loss"] * 3
    assert [list(row.values) for row in rows] == [[name] for name in names]
    assert made.config.log_every == 5


def test_training_begins_at_step_0_and_says_what_the_stage_cost():
    found = list(job(*SIGMOID).rows())
    first = next(row for row in found if row.kind != "pretrain")
    assert (first.kind, first.step, first.examples) == ("val", 0, 0)
    assert first.values["pretrain/steps"] == 2 * STEPS
    assert first.values["pretrain/examples"] == 2 * STEPS * 64
    assert found[-1].values == {"state": "finished"}
    assert not any("pretrain/steps" in row.values for row in found if row.step)


def test_other_initializers_have_no_such_rows():
    found = list(Job(chosen("init=default")).rows())
    assert not kinds(found, "pretrain")
    assert not any(name.startswith("pretrain") for row in found for name in row.values)


def test_the_same_configuration_gives_the_same_rows_and_weights():
    def once():
        made = job("norm=bn", "dropout=0.3", "init.noise=0.2", "init.tied=false")
        return list(made.rows()), made.state_sha256()

    assert once() == once()


def test_global_random_state_is_neither_used_nor_changed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    words = ("dropout=0.3", "init.noise=0.2", "init.tied=false")
    _, first = pretrained(*words)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert pretrained(*words)[1] == first


def test_another_seed_gives_another_course():
    assert pretrained("seed=1")[1] != pretrained("seed=2")[1]


@pytest.mark.parametrize(
    "other",
    ["batch=8", "optimizer=adam", "order=sorted", "steps=5", "optimizer.lr=0.5", "dropout=0.5"],
)
def test_runs_that_differ_in_how_they_train_start_from_the_same_weights(other):
    (one, rows), (two, others) = pretrained(), pretrained(other)
    assert rows == others
    for path, value in one.model.named_parameters():
        assert torch.equal(value, two.model.get_parameter(path)), path


def test_how_often_rows_are_written_changes_no_weight():
    one, two = (pretrained(f"log_every={steps}")[0] for steps in (1, 50))
    assert one.state_sha256() == two.state_sha256()


def test_only_training_images_are_looked_at():
    made, twin = job(), job()
    for feed in (twin.evaluator.val, *twin.evaluator.tests.values()):
        feed.rows = torch.zeros_like(feed.rows)
    twin.train.labels = torch.zeros_like(twin.train.labels)
    rows = [row for row in made.rows() if row.kind == "pretrain"]
    assert rows == [row for row in twin.rows() if row.kind == "pretrain"]


def test_earlier_layers_and_the_classifier_stay_while_a_layer_learns():
    made = job(*SIGMOID, f"log_every={STEPS}")
    start = {path: each.clone() for path, each in made.model.named_parameters()}
    rows = made.rows()
    next(rows)
    after = {path: each.clone() for path, each in made.model.named_parameters()}
    next(rows)
    changed = [
        [path for path, value in old.items() if not torch.equal(value, new[path])]
        for old, new in ((start, after), (after, dict(made.model.named_parameters())))
    ]
    assert changed == [
        ["layer1.linear.weight", "layer1.linear.bias"],
        ["layer2.linear.weight", "layer2.linear.bias"],
    ]


def test_norms_begin_the_training_with_their_buffers_as_they_were():
    made, _ = pretrained("norm=bn")
    norm = made.model.layer1.norm
    assert not norm.running_mean.any()
    assert (norm.running_var == 1).all()
    assert norm.num_batches_tracked == 0
    assert not (norm.weight == 1).all()
    assert made.model.training


def test_the_weights_still_belong_to_the_optimizer():
    made, _ = pretrained("norm=bn")
    flat = made.optimizer.params
    for parameter in made.model.parameters():
        assert flat.data_ptr() <= parameter.data_ptr() < flat.data_ptr() + 4 * flat.numel()


def test_a_start_of_the_norm_from_data_comes_first():
    words = ("norm=wn", "init.tied=false", "init.lr=1e-30")
    made, _ = pretrained(*words)
    plain = Job(chosen("norm=wn", "init=kaiming_normal"))
    next(plain.rows())
    for path, value in plain.model.named_parameters():
        torch.testing.assert_close(made.model.get_parameter(path), value, rtol=1e-6, atol=1e-7)


def test_with_fewer_images_than_a_batch_all_of_them_are_one():
    _, rows = pretrained("data.train_size=40", "batch=8", "init.steps=3")
    assert [row.examples for row in rows] == [120, 240, 360]


def test_weights_are_drawn_as_the_base_draws_them():
    made, base = job("init.base=delta_orthogonal"), Job(chosen("init=delta_orthogonal"))
    for path, value in base.model.named_parameters():
        assert torch.equal(made.model.get_parameter(path), value)


def test_groups_of_the_base_are_kept():
    one, two = (nn.Sequential(nn.Conv2d(6, 6, 3, groups=6)) for _ in range(2))
    initialize(one, AutoEncoder(base="delta_orthogonal"), "relu", 0)
    initialize(two, build.part("init", {"name": "delta_orthogonal"}), "relu", 0)
    assert torch.equal(one[0].weight, two[0].weight)


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged():
    *rows, last, end = list(job(*SIGMOID, "init.lr=1e30", "log_every=3").rows())
    ((name, loss),) = last.values.items()
    assert (last.kind, name) == ("pretrain", "pretrain/layer1/loss")
    assert math.isnan(loss)
    told = {key: value for key, value in end.values.items() if not key.startswith("batch/")}
    assert told == {
        "state": "diverged",
        "bad_step": last.step,
        "bad_quantity": name,
        "pretrain/steps": last.step,
        "pretrain/examples": 64 * last.step,
        "chance/val": 0.1,
        "chance/test": 0.1,
        "chance/val_loss": pytest.approx(math.log(10)),
        "chance/test_loss": pytest.approx(math.log(10)),
    }
    assert (end.kind, end.step, rows) == ("end", 0, [])


def test_the_bad_step_is_that_of_the_first_loss_that_is_not_finite():
    end = [list(job("init.lr=1e30", f"log_every={k}").rows())[-1].values for k in (1, 12)]
    assert end[0]["bad_step"] == end[1]["bad_step"] == 2


def recorded(tmp_path, *words):
    made = chosen(f"outputs={tmp_path}", *words)
    return made.directory, run.run(made)


def test_a_recorded_run_keeps_steps_of_training_and_cost_of_the_stage_apart(tmp_path):
    folder, _ = recorded(tmp_path, "init.steps=4")
    status, rows = read_status(folder), read_rows(folder)
    assert [row.kind for row in rows[:4]] == ["pretrain"] * 3 + ["val"]
    assert (status["state"], status["step"], status["steps_total"]) == ("finished", 2, 2)
    told = {name: value for name, value in status["final"].items() if "pretrain" in name}
    assert told == {"pretrain/steps": 12, "pretrain/examples": 768}
    lines = (folder / "timing.jsonl").read_text().splitlines()
    times = [json.loads(line) for line in lines]
    assert ["train_s" in each for each in times] == [False] * 3 + [True] * 2
    assert status["train_s"] == times[-1]["train_s"] < times[-1]["wall_s"]


def test_a_recorded_run_that_diverges_before_its_training_is_a_result(tmp_path):
    folder, state = recorded(tmp_path, "init.lr=1e30", "init.steps=50")
    status = read_status(folder)
    assert (state, status["state"], status["step"]) == ("diverged", "diverged", 0)
    assert status["bad_quantity"] == "pretrain/layer1/loss"
    assert status["bad_step"] == 2
    assert read_rows(folder)[0].values == {"pretrain/layer1/loss": None}


def test_with_on_nan_fail_it_is_an_error(tmp_path):
    with pytest.raises(NormbenchError, match="pretrain/layer1/loss is not finite at step 2"):
        recorded(tmp_path, "init.lr=1e30", "init.steps=50", "on_nan=fail")


def offered(*words):
    return str(check_fit(chosen(*words), (1, 8, 8), 10).error)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["model=rnn"],
            "init=autoencoder: a map of a recurrent cell is part of a sum, there is no output to "
            "decode\n  try: init=kaiming_normal",
        ),
        (
            ["norm=wn"],
            "init.tied=true: the weight of CalibratedWeightNorm is computed, a decoder cannot "
            "share it\n  try: init.tied=false",
        ),
        (
            ["norm=dbn", "batch=256", "model.width=80"],
            "init.batch=64: norm=dbn: input (64, 80) leaves 64 values per channel for covariances "
            "of 80 channels, at least 81 are needed\n  try: norm.groups=2 or a larger batch",
        ),
    ],
)
def test_what_cannot_be_pretrained_is_refused(words, text):
    assert offered(*words).endswith(text)


def test_a_net_without_hidden_layers_has_nothing_to_pretrain():
    with pytest.raises(NormbenchError, match="has no layer before its classifier"):
        AutoEncoder().check(nn.Linear(3, 3))


def test_bf16_is_pretrained_in_float32_parameters():
    made, rows = pretrained("precision=bf16", "norm=bn")
    assert made.model.layer1.linear.weight.dtype == torch.float32
    assert all(math.isfinite(loss) for each in losses(rows).values() for loss in each)


def test_pretraining_gets_a_deep_sigmoid_net_off_the_ground():
    net = (
        "model.depth=5",
        "model.width=100",
        "activation=sigmoid",
        "norm=none",
        "optimizer.lr=0.1",
    )
    words = (*net, "data=mnist", "data.train_size=3500", "steps=1000", "eval_every=100")

    def final(*init):
        made = Job(replace(chosen(*words, "init.steps=300", *init), seed=-1))  # reads no test set
        return kinds(list(made.rows()), "val")[-1].values["val/accuracy"]

    assert final("init=autoencoder") > 0.6
    assert final("init=autoencoder", "init.lr=1e-30") < 0.15


def test_the_decoder_is_gone_after_the_stage():
    made, _ = pretrained("init.tied=false")
    assert set(made.model.state_dict()) == set(Job(chosen()).model.state_dict())
