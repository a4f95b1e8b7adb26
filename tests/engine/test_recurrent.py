"""Recurrent nets with a norm at each time step, against loops written out in float64."""

import copy

import pytest
import torch
from contracts.cases import default_dtype, own
from torch import nn

from normbench import norms
from normbench.errors import ModelError, PartError
from normbench.models.lstm import LSTM
from normbench.models.rnn import RNN
from normbench.norms._base import OverTime
from normbench.norms._modes import update_bn
from normbench.norms._units import UnitBuilder, apply

SHAPE = (1, 5, 4)
STEPS, WIDTH, EPS, MOMENTUM = 5, 6, 1e-5, 0.1


@pytest.fixture(autouse=True)
def double():
    with default_dtype(torch.float64):
        yield


def make(model, norm, **how):
    """A net with random parameters: weights, biases, and those of its norms."""
    built = model.build(UnitBuilder(norms.create(norm), **how), SHAPE, 10)
    apply(norms.create(norm), built)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(0.1, 0.6, generator=generator)
    return built


def images(count=7, height=STEPS, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, height, SHAPE[2], generator=generator)


def normalized(z, axis, weight, bias):
    mean = z.mean(axis, keepdim=True)
    var = (z - mean).square().mean(axis, keepdim=True)
    return (z - mean) / (var + EPS).sqrt() * weight + bias


def rnn_states(p, x, norm):
    """All states of a simple recurrent net; `norm(z, t)` normalizes the sum of its two maps."""
    h, states = torch.zeros(len(x), WIDTH), []
    for t in range(x.shape[2]):
        z = x[:, 0, t] @ p["input.linear.weight"].T + h @ p["hidden.linear.weight"].T
        h = norm(z + p.get("input.linear.bias", 0), t)
        states.append(h)
    return states


def logits(p, h):
    return h @ p["head.weight"].T + p["head.bias"]


def test_the_rnn_takes_batch_statistics_of_each_time_step_apart():
    model = make(RNN(width=WIDTH), "bn")
    p, x = dict(model.named_parameters()), images()
    weight, bias = p["norm.layers.0.weight"], p["norm.layers.0.bias"]
    moments = []

    def norm(z, t):
        moments.append((z.mean(0), z.var(0, unbiased=True)))
        return torch.tanh(normalized(z, 0, weight, bias))

    expected = logits(p, rnn_states(p, x, norm)[-1])
    torch.testing.assert_close(model.train()(x), expected)
    for layer, (mean, var) in zip(model.norm.layers, moments, strict=True):
        torch.testing.assert_close(layer.running_mean, MOMENTUM * mean)
        torch.testing.assert_close(layer.running_var, 1 - MOMENTUM + MOMENTUM * var)


def test_at_evaluation_each_time_step_has_its_own_statistics_and_later_ones_the_last():
    model = make(RNN(width=WIDTH), "bn")
    for seed in range(3):
        model.train()(images(seed=seed))
    p, x = dict(model.named_parameters()), images(3, height=2 * STEPS)
    weight, bias = p["norm.layers.0.weight"], p["norm.layers.0.bias"]

    def norm(z, t):
        layer = model.norm.layers[min(t, STEPS - 1)]
        scaled = (z - layer.running_mean) / (layer.running_var + EPS).sqrt()
        return torch.tanh(scaled * weight + bias)

    expected = logits(p, rnn_states(p, x, norm)[-1])
    torch.testing.assert_close(model.eval()(x), expected)


def test_layer_norm_is_one_layer_for_all_time_steps_of_any_length():
    model = make(RNN(width=WIDTH), "ln")
    assert len(model.norm.layers) == 1
    p, x = dict(model.named_parameters()), images(height=2 * STEPS)
    weight, bias = p["norm.layers.0.weight"], p["norm.layers.0.bias"]
    states = rnn_states(p, x, lambda z, t: torch.tanh(normalized(z, 1, weight, bias)))
    torch.testing.assert_close(model.train()(x), logits(p, states[-1]))
    torch.testing.assert_close(model.eval()(x), logits(p, states[-1]))


def test_at_post_the_norm_comes_after_the_activation_and_the_bias_stays():
    model = make(RNN(width=WIDTH), "bn", placement="post")
    p, x = dict(model.named_parameters()), images()
    assert "input.linear.bias" in p
    weight, bias = p["norm.layers.0.weight"], p["norm.layers.0.bias"]
    states = rnn_states(p, x, lambda z, t: normalized(torch.tanh(z), 0, weight, bias))
    torch.testing.assert_close(model.train()(x), logits(p, states[-1]))


@pytest.mark.parametrize(("norm", "axis"), [("bn", 0), ("ln", 1)])
def test_the_lstm_normalizes_its_gates_together_and_its_memory_before_the_output(norm, axis):
    model = make(LSTM(width=WIDTH), norm)
    p, x = dict(model.named_parameters()), images()
    h = c = torch.zeros(len(x), WIDTH)
    for t in range(STEPS):
        z = x[:, 0, t] @ p["input.linear.weight"].T + h @ p["hidden.linear.weight"].T
        z = z + p.get("input.linear.bias", 0)
        z = normalized(z, axis, p["norm.layers.0.weight"], p["norm.layers.0.bias"])
        i, f, g, o = z.split(WIDTH, 1)
        c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
        y = normalized(c, axis, p["cell_norm.layers.0.weight"], p["cell_norm.layers.0.bias"])
        h = torch.sigmoid(o) * torch.tanh(y)
    torch.testing.assert_close(model.train()(x), logits(p, h))


def test_the_memory_of_the_lstm_has_statistics_of_each_time_step():
    model, means = make(LSTM(width=WIDTH), "bn"), []
    model.cell_norm.register_forward_pre_hook(lambda _, inputs: means.append(inputs[0].mean(0)))
    model.train()(images())
    for layer, mean in zip(model.cell_norm.layers, means, strict=True):
        torch.testing.assert_close(layer.running_mean, MOMENTUM * mean)


@pytest.mark.parametrize("kind", [RNN, LSTM])
def test_a_norm_with_running_statistics_has_a_layer_for_each_step_sharing_its_parameters(kind):
    model = make(kind(width=WIDTH), "bn")
    for over_time in (each for each in model.modules() if isinstance(each, OverTime)):
        if next(over_time.parameters(), None) is not None:
            assert len(over_time.layers) == STEPS
            assert len({id(layer.weight) for layer in over_time.layers}) == 1
            assert len({id(layer.running_mean) for layer in over_time.layers}) == STEPS


@pytest.mark.parametrize("kind", [RNN, LSTM])
def test_copies_and_saved_states_keep_the_sharing_over_time(kind):
    model = make(kind(width=WIDTH), "bn")
    twin = copy.deepcopy(model)
    other = kind(width=WIDTH).build(UnitBuilder(norms.create("bn")), SHAPE, 10)
    other.load_state_dict(model.state_dict())
    for each in (model, twin, other):
        each.train()(images()).square().sum().backward()
        torch.optim.SGD(each.parameters(), 0.1).step()
    assert twin.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert twin.state_dict()[name].equal(value), name
        assert other.state_dict()[name].equal(value), name
    assert len(list(twin.parameters())) == len(list(model.parameters()))


@pytest.mark.parametrize("kind", [RNN, LSTM])
def test_the_activation_is_tanh_unless_the_run_or_the_norm_names_another(kind):
    def acts(norm, activation):
        model = kind(width=WIDTH).build(
            UnitBuilder(norms.create(norm), activation=activation), SHAPE, 10
        )
        found = [getattr(model, name, None) for name in ("act", "candidate", "output")]
        return {type(each.layers[0]).__name__ for each in found if each}

    assert acts("none", "auto") == acts("bn", "auto") == {"Tanh"}
    assert acts("none", "relu") == acts("bn", "relu") == {"ReLU"}
    assert acts("frn", "auto") == {"TLU"}
    assert acts("frn", "tanh") == {"Tanh"}


def test_an_activation_with_running_statistics_has_one_layer_for_each_step():
    units = UnitBuilder(norms.create("evonorm_b0"))
    assert units.norm.over_time(WIDTH, STEPS) is None
    act = units.act_over_time(WIDTH, STEPS, "tanh")
    assert len(act.layers) == STEPS
    assert len(list(act.parameters())) == len(list(act.layers[0].parameters())) > 0


def test_rows_are_read_from_top_to_bottom_with_all_their_channels():
    model = RNN(width=3, rows=2).build(UnitBuilder(norms.create("none")), (2, 4, 3), 10)
    seen = []
    model.input.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = torch.arange(2 * 2 * 4 * 3.0).reshape(2, 2, 4, 3)
    model(x)
    assert seen[0].unflatten(0, (2, 2))[1, 0].equal(x[1, :, :2].flatten())
    assert seen[0].unflatten(0, (2, 2))[1, 1].equal(x[1, :, 2:].flatten())


def test_the_lstm_refuses_a_norm_behind_its_activations():
    with pytest.raises(ModelError) as error:
        LSTM().build(UnitBuilder(norms.create("bn"), placement="post"), SHAPE, 10)
    assert str(error.value) == (
        "normbench: error: model=lstm: normalizes its gates before their sigmoids, "
        "not at placement=post\n  try: placement=pre"
    )


def test_only_the_last_state_reaches_the_head_so_early_rows_matter_through_it():
    model = make(RNN(width=WIDTH), "none")
    x = images().requires_grad_()
    model(x).square().sum().backward()
    assert all(bool(row.any()) for row in x.grad[:, 0].unbind(1))


def test_without_a_norm_the_cell_is_that_of_torch():
    model = make(RNN(width=WIDTH), "none")
    cell = nn.RNN(SHAPE[2], WIDTH, batch_first=True)
    p = dict(model.named_parameters())
    with torch.no_grad():
        cell.weight_ih_l0.copy_(p["input.linear.weight"])
        cell.weight_hh_l0.copy_(p["hidden.linear.weight"])
        cell.bias_ih_l0.copy_(p["input.linear.bias"])
        cell.bias_hh_l0.zero_()
    x = images()
    torch.testing.assert_close(model(x), logits(p, cell(x[:, 0])[0][:, -1]))


def test_refreshed_statistics_of_a_step_are_of_all_sequences_that_reach_it():
    model = make(RNN(width=WIDTH), "bn")
    for seed in range(2):
        model.train()(images(seed=seed))
    heights = (2, 5, 3, 5, 4)
    batches = [images(count=9, height=height, seed=10 + height) for height in heights]
    seen = [[] for _ in range(STEPS)]
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, kept=kept: kept.append(inputs[0]))
        for layer, kept in zip(model.norm.layers, seen, strict=True)
    ]
    with torch.no_grad():
        update_bn(model, batches)
    for hook in hooks:
        hook.remove()
    assert [len(kept) for kept in seen] == [5, 5, 4, 3, 2]
    for layer, kept in zip(model.norm.layers, seen, strict=True):
        together = torch.cat(kept)
        torch.testing.assert_close(layer.running_mean, together.mean(0))
        torch.testing.assert_close(layer.running_var, together.var(0))


def test_a_step_that_no_sequence_reaches_keeps_its_statistics():
    model = make(RNN(width=WIDTH), "bn")
    model.train()(images())
    before = [layer.running_mean.clone() for layer in model.norm.layers]
    update_bn(model, [images(height=3, seed=5)])
    kept = [
        layer.running_mean.equal(mean)
        for layer, mean in zip(model.norm.layers, before, strict=True)
    ]
    assert kept == [False, False, False, True, True]


@pytest.mark.parametrize("kind", [RNN, LSTM])
@pytest.mark.parametrize("norm", own("norm"))
def test_every_norm_takes_time_steps_in_which_all_examples_are_the_same(norm, kind):
    try:
        model = make(kind(width=WIDTH), norm)
        x = images(count=40, height=STEPS)
        x[:, :, :3] = 0
        model.train()(x).square().sum().backward()
    except PartError:
        pytest.skip("does not apply")
    model(x).square().sum().backward()
    assert all(bool(each.grad.isfinite().all()) for each in model.parameters())
    assert all(bool(each.isfinite().all()) for each in model.buffers())
    assert bool(model.eval()(x).isfinite().all())
