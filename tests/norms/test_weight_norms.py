"""Relations of each norm of weights to torch's functions, and the start from a first batch."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from normbench.errors import NormError
from normbench.norms import create
from normbench.norms._modes import calibrate
from normbench.norms._units import Dropout, UnitBuilder

LAYERS = {
    "linear": (lambda: nn.Linear(7, 5), (16, 7)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (8, 4, 5, 6)),
    "grouped": (lambda: nn.Conv2d(4, 6, 2, groups=2, bias=False), (8, 4, 4, 5)),
}


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(kind, seed=0):
    torch.manual_seed(seed)
    return LAYERS[kind][0]().double()


# ---- wn ----


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("per", ["channel", "layer"])
def test_wn_follows_torchs_parametrization_over_three_steps(kind, per):
    ours = create("wn", per=per).linear(plain(kind))
    theirs = parametrizations.weight_norm(plain(kind), dim=0 if per == "channel" else None)
    steppers = [torch.optim.SGD(each.parameters(), 0.1, 0.9) for each in (ours, theirs)]
    for step in range(3):
        x = draw(*LAYERS[kind][1], seed=step)
        outputs = [ours(x), theirs(x)]
        torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
        for output, stepper in zip(outputs, steppers, strict=True):
            stepper.zero_grad()
            output.sin().sum().backward()
            stepper.step()
        g, v = theirs.parametrizations.weight.original0, theirs.parametrizations.weight.original1
        torch.testing.assert_close(ours.g, g.reshape(ours.g.shape), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours.v, v, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("per", ["channel", "layer"])
def test_wn_starts_as_the_layer_that_it_replaces(kind, per):
    layer = plain(kind)
    x = draw(*LAYERS[kind][1])
    torch.testing.assert_close(create("wn", per=per).linear(layer)(x), layer(x))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("per", ["channel", "layer"])
def test_the_gradient_of_v_is_orthogonal_to_v_so_that_sgd_only_lengthens_it(kind, per):
    layer = create("wn", per=per).linear(plain(kind))
    stepper = torch.optim.SGD(layer.parameters(), 0.1)
    for step in range(5):
        before = layer.norms(layer.v.detach())
        stepper.zero_grad()
        layer(draw(*LAYERS[kind][1], seed=step)).sin().sum().backward()
        inner = (layer.v * layer.v.grad).flatten(1).sum(1)
        if per == "layer":
            inner = inner.sum()
        assert inner.abs().max() < 1e-12
        stepper.step()
        assert (layer.norms(layer.v.detach()) >= before).all()


class Net(nn.Sequential):
    """Two convolutions and a dense layer, each by the norm, with relu between them."""

    def __init__(self, norm, *between):
        torch.manual_seed(0)
        super().__init__(
            norm.linear(nn.Conv2d(3, 8, 3, padding=1)),
            nn.ReLU(),
            *between,
            norm.linear(nn.Conv2d(8, 8, 3, stride=2, bias=False)),
            nn.ReLU(),
            nn.Flatten(),
            norm.linear(nn.Linear(32, 6)),
        )
        self.double()

    def seen(self, x):
        """Outputs of the normed layers, channels first."""
        outputs = []
        for layer in self:
            x = layer(x)
            if hasattr(layer, "g"):
                outputs.append(x.transpose(0, 1).flatten(1).detach())
        return outputs


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_calibration_gives_each_channel_mean_0_and_deviation_init_scale(scale):
    net, x = Net(create("wn", init_scale=scale)), draw(20, 3, 6, 6) + 1
    calibrate(net, x)
    biased, bare, last = net.seen(x)
    for output in (biased, last):
        torch.testing.assert_close(output.mean(1), torch.zeros_like(output[:, 0]))
    for output in (biased, bare, last):
        deviation = output.std(1, correction=0)
        torch.testing.assert_close(deviation, scale * torch.ones_like(deviation), rtol=1e-6, atol=0)


def test_calibration_is_the_formula_of_the_paper():
    plain_layer, x = plain("linear"), draw(16, 7) + 1
    layer = create("wn", init_scale=2.0).linear(plain_layer)
    layer.calibrate(x)
    weight = plain_layer.weight.detach().numpy()
    t = x.numpy() @ (weight / np.linalg.norm(weight, axis=1, keepdims=True)).T
    g = 2 / np.sqrt(t.var(0) + 1e-8)
    np.testing.assert_allclose(layer.g.detach().numpy(), g, rtol=1e-12)
    np.testing.assert_allclose(layer.bias.detach().numpy(), -t.mean(0) * g, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 0.7])
def test_a_constant_channel_keeps_its_g(constant, dtype):
    layer = nn.Conv2d(2, 3, 3).to(dtype)
    layer.weight.data[1, 1] = 0  # the second filter sees the constant map only
    x = draw(8, 2, 9, 9, dtype=dtype)
    x[:, 0] = constant
    layer = create("wn").linear(layer)
    before = layer.g.detach().clone()
    layer.calibrate(x)
    assert (layer.g != before).tolist() == [True, False, True]
    assert layer(x).isfinite().all()
    assert layer(x)[:, 1].abs().max() < 1e-5


def test_calibration_leaves_buffers_modes_and_random_state_as_they_were():
    net = Net(create("wn"), nn.BatchNorm2d(8), Dropout(0.5), nn.Dropout(0.5))
    net[3].eval()
    modes = [module.training for module in net.modules()]
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    random = torch.get_rng_state()
    calibrate(net, draw(20, 3, 6, 6))
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, buffers[name]) for name, value in net.named_buffers())
    assert torch.equal(random, torch.get_rng_state())


def test_calibration_uses_statistics_of_the_batch_in_the_layers_between():
    net, x = Net(create("wn"), nn.BatchNorm2d(8)), draw(20, 3, 6, 6)
    calibrate(net, x)
    outputs = net.train().seen(x)
    for output in outputs:
        deviation = output.std(1, correction=0)
        torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=1e-6, atol=0)


def test_calibration_draws_no_gradient_and_leaves_no_hook():
    net = Net(create("wn"))
    calibrate(net, draw(20, 3, 6, 6))
    before = copy.deepcopy(net.state_dict())
    net(draw(20, 3, 6, 6, seed=1))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_layer_called_once_per_time_step_is_calibrated_at_the_first():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = create("wn").linear(plain("linear"))

        def forward(self, x):
            return sum(self.map(each) for each in x.unbind(1))

    cell, x = Cell(), draw(16, 3, 7) * torch.tensor([1.0, 5.0, 9.0]).reshape(3, 1)
    calibrate(cell, x)
    deviation = cell.map(x[:, 0]).std(0, correction=0)
    torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=1e-6, atol=0)


@pytest.mark.parametrize("options", [{"data_init": False}, {"per": "layer"}])
def test_without_data_init_calibration_does_not_run_the_model(options):
    net = Net(create("wn", **options))
    calibrate(net, "no batch at all")


# ---- ws, scaled_ws ----


@pytest.mark.parametrize("kind", LAYERS)
def test_standardized_filters_have_mean_0_and_deviation_1(kind):
    weight = create("ws", eps=0.0).linear(plain(kind)).standardized().detach().numpy()
    rows = weight.reshape(len(weight), -1)
    np.testing.assert_allclose(rows.mean(1), 0, atol=1e-14)
    np.testing.assert_allclose(rows.std(1), 1, rtol=1e-12)


def test_scaled_filters_keep_the_variance_of_independent_inputs_and_of_relu():
    torch.manual_seed(0)
    gamma = 1.7139588594436646
    layer = create("scaled_ws", gamma=gamma).linear(nn.Linear(400, 300).double())
    layer.bias.data.zero_()
    outputs = layer(draw(3000, 400)) / gamma
    assert outputs.var(0).mean().item() == pytest.approx(1, abs=0.01)
    assert (gamma * outputs.relu()).var().item() == pytest.approx(1, abs=0.02)


# ---- cosine ----


def test_cosine_of_a_dense_layer_is_torchs_cosine_similarity():
    plain_layer, x = plain("linear"), draw(16, 7)
    expected = F.cosine_similarity(x[:, None], plain_layer.weight[None], dim=2)
    layer = create("cosine", scale=3.0).linear(plain_layer)
    torch.testing.assert_close(layer(x), 3 * expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["conv", "grouped"])
def test_cosine_of_a_convolution_is_torchs_cosine_similarity_of_patches(kind):
    conv, x = plain(kind), draw(*LAYERS[kind][1])
    y = create("cosine").linear(conv)(x)
    outputs = []
    for part, weight in zip(x.chunk(conv.groups, 1), conv.weight.chunk(conv.groups), strict=True):
        patches = F.unfold(part, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
        rows = weight.flatten(1)[None, :, :, None]
        outputs.append(F.cosine_similarity(patches[:, None], rows, dim=2))
    torch.testing.assert_close(y.flatten(2), torch.cat(outputs, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("centred", [False, True])
def test_cosine_pads_an_even_kernel_as_torch_does(centred):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, (2, 3), dilation=(3, 2), padding="same").double()
    x = draw(2, 3, 6, 7)
    padded = copy.deepcopy(conv)
    padded.padding = (0, 0)
    by_hand = create("cosine", centred=centred).linear(padded)(F.pad(x, (2, 2, 1, 2)))
    torch.testing.assert_close(create("cosine", centred=centred).linear(conv)(x), by_hand)


def test_centred_cosine_is_numpys_correlation():
    plain_layer, x = plain("linear"), draw(16, 7)
    stacked = np.corrcoef(np.concatenate([x.numpy(), plain_layer.weight.detach().numpy()]))
    y = create("cosine", centred=True).linear(plain_layer)(x).detach().numpy()
    np.testing.assert_allclose(y, stacked[:16, 16:], rtol=1e-12, atol=1e-12)


def test_centred_cosine_of_a_convolution_is_numpys_correlation_of_patches():
    conv, x = plain("conv"), draw(*LAYERS["conv"][1])
    y = create("cosine", centred=True).linear(conv)(x).detach().flatten(2)
    patches = F.unfold(x, 3, padding=1, stride=2).transpose(1, 2)
    rows = conv.weight.detach().flatten(1).numpy()
    for sample, outputs in zip(patches, y, strict=True):
        stacked = np.corrcoef(np.concatenate([sample.numpy(), rows]))
        np.testing.assert_allclose(outputs.T, stacked[: len(sample), len(sample) :], atol=1e-12)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_cosines_lie_between_plus_and_minus_scale_and_reach_it(kind, centred):
    plain_layer = plain(kind)
    layer = create("cosine", centred=centred, scale=2.0).linear(plain_layer)
    x = 1e3 * draw(*LAYERS[kind][1])
    assert layer(x).abs().max() <= 2 + 1e-12
    if kind == "linear":
        own = layer(-5 * plain_layer.weight.detach()).diagonal()
        torch.testing.assert_close(own, -2 * torch.ones_like(own))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [1e-6, 0.0])
@pytest.mark.parametrize(("centred", "shade"), [(False, 0.0), (True, 0.0), (True, 0.7)])
def test_black_patches_give_0_and_gradient_0(centred, shade, eps, dtype):
    torch.manual_seed(0)
    layer = create("cosine", centred=centred, eps=eps).linear(nn.Conv2d(3, 4, 3).to(dtype))
    x = draw(2, 3, 12, 12, dtype=dtype)
    x[:, :, :, 6:] = shade  # centred, any shade is black
    x.requires_grad_()
    y = layer(x)
    y.backward(draw(*y.shape, seed=1, dtype=dtype))
    assert not y[..., 6:].any()
    assert y[..., :6].all()
    assert x.grad.isfinite().all()
    assert layer.weight.grad.isfinite().all()
    assert not x.grad[..., 8:].any()  # seen by black patches only


@pytest.mark.parametrize("centred", [False, True])
def test_a_row_of_zeros_gives_0_and_gradient_0(centred):
    layer = create("cosine", centred=centred).linear(plain("linear"))
    x = draw(4, 7)
    x[2] = 0
    x.requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert not y[2].any()
    assert not x.grad[2].any()
    assert x.grad[[0, 1, 3]].all()


@pytest.mark.parametrize("kind", LAYERS)
def test_centred_cosine_loses_no_digits_to_a_large_mean(kind):
    layer = create("cosine", centred=True).linear(plain(kind))
    if kind == "conv":  # its padding zeros do not move with the mean
        layer.pads = [0, 0, 0, 0]
    x = (100 + draw(*LAYERS[kind][1])).float()
    exact = layer(x.double())
    close = layer.float()(x)
    assert (close - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_cosine_has_no_bias_even_if_the_layer_had_one():
    assert [name for name, _ in create("cosine").linear(nn.Linear(3, 4)).named_parameters()] == [
        "weight"
    ]
    assert not hasattr(UnitBuilder(create("cosine")).conv(3, 4, 3).linear, "v")
    assert UnitBuilder(create("cosine")).conv(3, 4, 3).linear.bias is None
    assert UnitBuilder(create("cosine")).head(3, 4).bias is not None


# ---- normprop ----


def test_normprop_keeps_mean_0_and_variance_1_of_independent_normal_inputs():
    torch.manual_seed(0)
    norm = create("normprop", affine=False)
    layer, act = norm.linear(nn.Linear(50, 10)), norm.activation(None, 10, 0)
    outputs = act(layer(draw(100_000, 50, dtype=torch.float32))).double()
    assert outputs.mean().item() == pytest.approx(0, abs=1e-2)
    assert outputs.var().item() == pytest.approx(1, abs=1e-2)


def test_normprop_starts_with_the_gamma_of_the_paper_and_a_bias_of_0():
    layer = create("normprop").linear(nn.Linear(3, 4, bias=False).double())
    torch.testing.assert_close(
        layer.gamma.detach(), torch.full((4,), math.sqrt(1 - 1 / math.pi), dtype=torch.float64)
    )
    assert not layer.bias.any()


def test_normprop_takes_no_activation_but_relu():
    assert UnitBuilder(create("normprop"), activation="relu").linear(3, 4).act
    assert create("normprop").activation(nn.ReLU(), 4, 0)
    with pytest.raises(NormError, match="activation=tanh has no place"):
        UnitBuilder(create("normprop"), activation="tanh")
    with pytest.raises(NormError, match="is made for relu, not tanh"):
        create("normprop").activation(nn.Tanh(), 4, 0)


def test_cosine_takes_a_zero_row_where_eps_bounds_its_length():
    linear = nn.Linear(3, 2).double()
    linear.weight.data[0] = 0
    layer = create("cosine").linear(linear)
    y = layer(draw(4, 3))
    y.sum().backward()
    assert not y[:, 0].any() and y[:, 1].all()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["ws", "scaled_ws"])
def test_filters_of_two_weights_become_plus_and_minus_one(name):
    layer = create(name, eps=0.0).linear(nn.Linear(2, 3).double())
    ones = torch.ones(3, 2, dtype=torch.float64)
    torch.testing.assert_close(layer.standardized().detach().abs(), ones)


@pytest.mark.parametrize("placement", ["post", "preact"])
def test_normprop_stands_at_pre_only(placement):
    with pytest.raises(NormError, match=f"cannot stand at placement={placement}"):
        UnitBuilder(create("normprop"), placement=placement)
