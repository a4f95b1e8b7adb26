"""The contract of every optimizer: against numpy, against torch, and on flat parameters.

An oracle file holds OPTIONS (option sets to run), REFUSED ((options, text)), `twin(groups, lr,
**options)`, which makes torch's own optimizer, and `Oracle(p, **options)` with `step(g, lr,
decayed)`, which moves one parameter `p`, a numpy array. It may hold QUIET, options with which
nothing but a gradient or weight decay moves a parameter, CALLS, the most tensor calls of a step if
that is more than 10, and CLOSE, how far it may be from torch's in float32 if it amplifies rounding.
"""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from contracts.cases import default_dtype, oracle_of, own
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from normbench.errors import OptimizerError
from normbench.parts import registry

NAMES = own("optimizer")
ORACLES = {name: oracle_of("optimizer", name) for name in NAMES}
CASES = [
    pytest.param(name, options, id=f"{name}-{options}")
    for name, oracle in ORACLES.items()
    for options in oracle.OPTIONS
]
DTYPES = [torch.float32, torch.float64]


def make(name, options):
    return registry.find("optimizer", name)(**options)


def net(dtype=torch.float32, seed=0):
    """A channels-last net with odd sizes, so that nothing fits the alignment by chance.

    No bias stands before the norm: its gradient is nothing but rounding, of which Adam makes steps
    of full size.
    """
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 7, 3, bias=False),
        nn.BatchNorm2d(7),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(7 * 36, 5),
    )
    return model.to(dtype).to(memory_format=torch.channels_last)


def backward(model, seed):
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    x = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(5, (4,), generator=generator)
    cross_entropy(model(x), labels).backward()


def train(model, stepper, steps):
    for step in steps:
        backward(model, step)
        stepper.step(0.02 / (1 + step))
        stepper.zero_grad()


def values(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_fifty_steps_follow_the_equation_in_float64(name, options, decay_all):
    model = net(torch.float64)
    stepper = make(name, options).bind(model, decay_all)
    followers = [ORACLES[name].Oracle(value.numpy(), **options) for value in values(model)]
    for step in range(50):
        lr = 0.1 / (1 + step)
        backward(model, step)
        for parameter, follower in zip(model.parameters(), followers, strict=True):
            follower.step(parameter.grad.numpy().copy(), lr, decay_all or parameter.dim() >= 2)
        stepper.step(lr)
        stepper.zero_grad()
    for value, follower in zip(values(model), followers, strict=True):
        np.testing.assert_allclose(value.numpy(), follower.p, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_fifty_steps_equal_those_of_torch(name, options, dtype):
    model = net(dtype)
    twin_model = copy.deepcopy(model)
    stepper = make(name, options).bind(model)
    decay = make(name, options).weight_decay
    parameters = list(twin_model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0},
    ]
    others = {key: value for key, value in options.items() if key != "weight_decay"}
    twin = ORACLES[name].twin(groups, 0.02, **others)
    for step in range(50):
        backward(model, step)
        backward(twin_model, step)
        stepper.step(0.02)
        stepper.zero_grad()
        with default_dtype(torch.float64):  # torch's counters are then as precise as ours
            twin.step()
        twin.zero_grad()
    # A fused multiply-add in one of the two is the only difference there may be.
    single = getattr(ORACLES[name], "CLOSE", 1e-6)
    close = {torch.float32: single, torch.float64: 1e-8 * single}[dtype]
    for ours, theirs in zip(values(model), values(twin_model), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=close, atol=close)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [(name, *refused) for name, oracle in ORACLES.items() for refused in oracle.REFUSED],
)
def test_bad_options_are_refused_by_name(name, options, text):
    with pytest.raises(OptimizerError, match=text):
        make(name, options)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_gradients_are_views_of_two_tensors(name):
    model = net()
    stepper = make(name, {}).bind(model)
    for parameter in model.parameters():
        assert parameter.untyped_storage().data_ptr() == stepper.params.data_ptr()
        assert parameter.grad.untyped_storage().data_ptr() == stepper.grad.data_ptr()
    backward(model, 0)
    total = sum(parameter.grad.square().sum() for parameter in model.parameters()).sqrt()
    torch.testing.assert_close(stepper.grad.norm(), total)


@pytest.mark.parametrize("name", NAMES)
def test_binding_changes_neither_values_nor_memory_format(name):
    model = net()
    before, strides = values(model), [p.stride() for p in model.parameters()]
    assert not model[0].weight.is_contiguous()
    make(name, {}).bind(model)
    assert [p.stride() for p in model.parameters()] == strides
    assert [p.grad.stride() for p in model.parameters()] == strides
    assert all(map(torch.equal, before, values(model)))


@pytest.mark.parametrize("name", NAMES)
def test_parameters_start_at_multiples_of_64_bytes(name):
    model = net()
    make(name, {}).bind(model)
    assert all(p.storage_offset() % 16 == 0 for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_only_parameters_with_two_axes_are_decayed(name):
    model = net()
    quiet = getattr(ORACLES[name], "QUIET", {})
    stepper = make(name, {**quiet, "weight_decay": 0.5}).bind(model)
    before = values(model)
    stepper.step(0.1)
    for old, parameter in zip(before, model.parameters(), strict=True):
        assert torch.equal(old, parameter) == (parameter.dim() < 2)


@pytest.mark.parametrize("name", NAMES)
def test_one_setting_decays_all(name):
    model = nn.BatchNorm1d(3)
    make(name, {"weight_decay": 0.5}).bind(model, decay_all=True).step(0.1)
    assert (model.weight < 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_shared_parameters_are_stepped_once(name):
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    stepper = make(name, {"weight_decay": 0.0}).bind(model)
    assert model[1].weight is model[0].weight
    assert stepper.params.numel() == 16


@pytest.mark.parametrize("name", NAMES)
def test_frozen_parameters_stay(name):
    model = nn.Linear(4, 4)
    model.weight.requires_grad_(False)
    before = model.weight.clone()
    make(name, {}).bind(model).step(0.1)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_two_backward_passes_add_up(name):
    model = net()
    stepper = make(name, {}).bind(model)
    backward(model.eval(), 0)
    once = stepper.grad.clone()
    backward(model, 0)
    torch.testing.assert_close(stepper.grad, 2 * once)
    stepper.zero_grad()
    assert not stepper.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_rescales_is_as_long_for_a_longer_gradient(name):
    moved = []
    for factor in (1.0, 100.0):
        stepper = make(name, {"weight_decay": 0.0}).bind(net())
        for _ in range(10):  # the first ones of radam do not
            before = stepper.params.clone()
            stepper.grad.copy_(torch.linspace(-1, 1, len(stepper.grad)) * factor)
            stepper.step(1e-3)
        moved.append((stepper.params - before).norm())
    assert moved[1] / moved[0] == pytest.approx(1 if make(name, {}).rescales else 100, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_gaps_between_parameters_stay_zero(name):
    model = net()
    stepper = make(name, {"weight_decay": 0.1}).bind(model)
    train(model, stepper, range(5))
    squares = sum(p.detach().double().square().sum() for p in model.parameters())
    torch.testing.assert_close(stepper.params.double().square().sum(), squares)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_loaded_state_goes_on_bit_for_bit(name, options):
    unbroken = net()
    train(unbroken, make(name, options).bind(unbroken), range(8))
    first, second = net(), net(seed=1)
    stepper = make(name, options).bind(first)
    train(first, stepper, range(4))
    later = make(name, options).bind(second)
    second.load_state_dict(first.state_dict())
    later.load_state_dict({key: value.clone() for key, value in stepper.state_dict().items()})
    train(second, later, range(4, 8))
    assert all(map(torch.equal, values(unbroken), values(second)))


@pytest.mark.parametrize("name", NAMES)
def test_a_state_of_another_model_is_refused(name):
    ours, other = (make(name, {}).bind(model) for model in (net(), nn.Linear(40, 2)))
    with pytest.raises(OptimizerError, match=r"saved \w+ is torch.float32 \(96,\), needed"):
        ours.load_state_dict(other.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_state_with_other_names_is_refused(name):
    stepper = make(name, {}).bind(net())
    with pytest.raises(OptimizerError, match=r"saved state holds \['nonsense'\]"):
        stepper.load_state_dict({"nonsense": torch.zeros(())})


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "slice" not in str(func):  # a view computes nothing
            self.made.append(str(func))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_step_takes_few_tensor_calls(name, options):
    stepper = make(name, options).bind(net())
    for _ in range(8):  # the first steps of some are shorter
        stepper.step(0.1)
    with Calls() as calls:
        stepper.step(0.05)
    assert len(calls.made) <= getattr(ORACLES[name], "CALLS", 10), calls.made


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_step_does_not_wait_for_the_device(name, options, monkeypatch):
    # torch's fused steps are single kernels, which exist on real devices only.
    for fused in ("_fused_sgd_", "_fused_adam_"):
        monkeypatch.setattr(torch, fused, lambda *_, **__: None)
    stepper = make(name, options).bind(net().to("meta"))  # of which no value can be read
    for step in range(8):
        stepper.step(0.1 / (1 + step))


def test_no_optimizer_imports_the_compiler_of_torch():
    code = (
        "import sys; from torch import nn; from normbench.parts import registry;"
        f"made = [registry.find('optimizer', name)() for name in {NAMES}];"
        "[each.bind(nn.Linear(2, 2)).step(0.1) for each in made];"
        "print('torch._dynamo' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
