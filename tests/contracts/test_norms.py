"""The contract of a norm, run for every one that is found; `subjects.py` says what oracles hold."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
from contracts.cases import (
    Case,
    cases,
    chosen,
    create,
    default_dtype,
    descend,
    draw,
    even,
    forward_backward,
    oracle_of,
    own,
    plain,
    state,
    train,
    width,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from normbench import norms
from normbench.errors import NormError
from normbench.norms._base import PLACES, Norm
from normbench.norms._units import UnitBuilder
from normbench.parts import registry
from normbench.runtime import machine

NAMES = own("norm")
ALL = [case for name in NAMES for case in cases(name)]
CHOSEN = [case for name in NAMES for case in chosen(name)]
PLAIN = [case for name in NAMES for case in plain(name)]
STEPS = 4

each_name = pytest.mark.parametrize("name", NAMES)
each_case = pytest.mark.parametrize("case", ALL, ids=str)
each_chosen = pytest.mark.parametrize("case", CHOSEN, ids=str)
batch_free = pytest.mark.parametrize(
    "case",
    [each for each in CHOSEN if not registry.facts("norm", each.name).constants["uses_batch"]],
    ids=str,
)
each_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
)
each_plain = pytest.mark.parametrize("case", PLAIN, ids=str)
drawn = settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.filter_too_much],
)


def same(actual: Tensor, expected: Tensor, tolerance: float = 1e-9, what: str = "") -> None:
    torch.testing.assert_close(
        actual, expected, rtol=tolerance, atol=tolerance, msg=lambda text: f"{what}: {text}"
    )


def differ(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors differ by more than rounding."""
    one, other = one.detach(), other.detach()
    return bool((one - other).abs().max() > 1e-7 * max(1.0, float(one.abs().max())))


def bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Assert that two state dictionaries hold the same bits."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value.dtype == other[key].dtype and value.equal(other[key]), key


def saved_buffers(module: nn.Module) -> dict[str, Tensor]:
    learned = dict(module.named_parameters())
    return {key: value for key, value in module.state_dict().items() if key not in learned}


# ---- agreement with the oracle ----


@each_chosen
def test_learned_values_and_buffers_start_as_specified(case):
    module, oracle = case.module(), case.oracle()
    learned = dict(module.named_parameters())
    assert learned.keys() == oracle.parameters.keys()
    for key, value in learned.items():
        same(value, oracle.parameters[key], what=key)
    buffers = saved_buffers(module)
    assert buffers.keys() == oracle.buffers.keys()
    for key, value in buffers.items():
        same(value, oracle.buffers[key], what=key)


@each_case
def test_training_steps_and_then_evaluation_agree_with_the_oracle(case):
    module, oracle = case.moved(), case.oracle()
    with torch.no_grad():
        for key, value in module.named_parameters():
            oracle.parameters[key].copy_(value)
    for t in range(STEPS):
        step_beside_oracle(case, module, oracle, t)
    module.eval()
    for rows in {1, case.shape[0]}:
        x = case.inputs(50, (rows, *case.shape[1:]))
        same(module(x), oracle.evaluate(x).detach(), what=f"evaluation of {rows} rows")


def step_beside_oracle(case, module, oracle, t):
    """One forward and backward of both, and an optimizer step where it is due."""
    x, x_oracle = (case.inputs(t).requires_grad_() for _ in range(2))
    y, y_oracle = module(x), oracle.train(x_oracle)
    same(y, y_oracle, what=f"output at step {t}")
    up = draw(tuple(y.shape), 100 + t)
    y.backward(up)
    y_oracle.backward(up)
    same(x.grad, x_oracle.grad, what=f"input gradient at step {t}")
    due = (t + 1) % getattr(oracle, "accumulate", 1) == 0
    if due:
        case.norm.after_backward(module)
        getattr(oracle, "after_backward", lambda: None)()
    for key, value in module.named_parameters():
        expected = oracle.parameters[key].grad
        found = torch.zeros_like(value) if value.grad is None else value.grad
        expected = torch.zeros_like(value) if expected is None else expected
        same(found, expected, what=f"gradient of {key} at step {t}")
    if due:
        descend(module.parameters())
        descend(oracle.parameters.values())
        case.norm.after_step(module)
        getattr(oracle, "step", lambda: None)()
    for key, value in saved_buffers(module).items():
        same(value, oracle.buffers[key], what=f"{key} after step {t}")


@each_chosen
def test_evaluation_before_any_training_agrees_with_the_oracle(case):
    x = case.inputs(50)
    same(case.module().eval()(x), case.oracle().evaluate(x).detach())


@pytest.mark.parametrize("name", [each for each in NAMES if cases(each)])
def test_named_bad_inputs_raise_the_named_text(name):
    for options, given_input, pattern in oracle_of("norm", name).REFUSED:
        with pytest.raises(NormError, match=pattern):
            use(name, options, given_input)
            pytest.fail(f"{options} on {given_input} was accepted")


def use(name, options, given_input):
    """Create a norm, put it into its place and do a training forward, as far as that is told."""
    case = Case(name, options, given_input if isinstance(given_input, tuple) else (4, 6, 5, 5))
    norm = case.norm
    if "linear" in case.kinds:
        made, shape = given_input if isinstance(given_input, tuple) else (given_input, None)
        if not callable(made):  # a shape alone is for the first layer
            made, shape = case.reference.LAYERS[0], given_input
        module = norm.linear(made())
        if shape is not None:
            module(torch.randn(shape))
    elif given_input is not None:
        case.module(dtype=torch.float32)(torch.randn(given_input))


@pytest.mark.parametrize(
    ("name", "options", "channels"),
    [
        *[("gn", {"groups": 6}, 6), ("evonorm_s0", {"groups": 6}, 6), ("ln", {}, 1)],
        *[("pono", {}, 1), ("switch", {}, 1)],
    ],
)
def test_a_group_of_one_dense_feature_is_refused_when_the_layer_is_built(name, options, channels):
    norm = create(name, **options)
    with pytest.raises(NormError, match="leaves 1 value"):
        UnitBuilder(norm).linear(4, channels)


# ---- the state ----


@each_chosen
def test_evaluation_leaves_the_state_bit_equal(case):
    module = case.moved()
    train(case, module, range(2))
    before = state(module)
    module.eval()
    first, second = module(case.inputs(9)), module(case.inputs(9))
    assert first.equal(second)
    bits(state(module), before)


@each_chosen
def test_a_copy_by_pickle_or_deepcopy_trains_like_the_original(case):
    module = case.moved()
    train(case, module, range(2))
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    expected = train(case, module, range(2, 4))
    for each in copies:
        for one, other in zip(train(case, each, range(2, 4)), expected, strict=True):
            assert one.equal(other)
        bits(state(each), state(module))


@each_name
def test_options_survive_pickle_and_compare_by_value(name):
    for case in chosen(name):
        assert pickle.loads(pickle.dumps(case.norm)) == case.norm


@each_chosen
@drawn
@given(stop=st.integers(0, 3), seed=st.integers(0, 99))
def test_a_stopped_and_reloaded_layer_goes_on_bit_for_bit(case, stop, seed):
    module = case.moved(seed)
    train(case, module, range(stop))
    reloaded = case.moved(seed + 1)
    reloaded.load_state_dict(state(module))
    unbroken, resumed = (train(case, each, range(stop, 4)) for each in (module, reloaded))
    for one, other in zip(resumed, unbroken, strict=True):
        assert one.equal(other)
    bits(state(reloaded), state(module))


@batch_free
def test_accumulating_micro_batches_equals_one_batch_without_batch_statistics(case):
    whole, parts = case.moved(), case.moved()
    x = case.inputs(3)
    up = draw(tuple(whole(x).shape), 4)
    forward_backward(whole, x, up)
    for rows, up_rows in zip(x.split(1), up.split(1), strict=True):
        forward_backward(parts, rows, up_rows)
    for one, other in zip(parts.parameters(), whole.parameters(), strict=True):
        same(one.grad, other.grad)


# ---- what a sample sees ----


@each_chosen
def test_a_sample_sees_its_batch_in_training_only_where_that_is_declared(case):
    if case.shape[0] < 2:
        pytest.skip("a batch of one")
    x, other = case.inputs(1), case.inputs(2)
    other[-1] = x[-1]  # the last: in a stream the first sees none before it
    seen = differ(*(copy.deepcopy(case.moved())(each)[-1] for each in (x, other)))
    if not case.options:
        assert seen == case.norm.uses_batch
    elif seen:
        assert case.norm.uses_batch


@batch_free
def test_a_sample_alone_gives_the_same_row_without_batch_statistics(case):
    module, x = case.moved(), case.inputs(1)
    rows = torch.cat([module(row[None]) for row in x])
    same(rows, module(x), 1e-12)


@each_chosen
def test_evaluation_never_mixes_samples(case):
    module = case.moved()
    train(case, module, range(2))
    module.eval()
    x = case.inputs(7)
    same(torch.cat([module(row[None]) for row in x]), module(x), 1e-12)


@each_chosen
def test_training_and_evaluation_differ_only_where_that_is_declared(case):
    module = case.moved()
    train(case, module, range(2))
    x = case.inputs(7)
    evaluated = module.eval()(x)
    assert differ(module.train()(x), evaluated) == case.norm.has_modes()


@each_chosen
def test_buffers_are_kept_only_by_norms_with_two_modes(case):
    assert bool(saved_buffers(case.module())) == case.norm.has_modes()


@each_plain
def test_the_buffers_are_those_that_the_facts_name(case):
    declared = registry.facts("norm", case.name).constants["state"]
    found = {name.rpartition(".")[2] for name in saved_buffers(case.module())}
    assert found == (set() if declared == "none" else set(declared.split()))


@each_plain
def test_the_bias_is_dropped_exactly_where_a_constant_per_channel_changes_nothing(case):
    shift = 3 * draw((1, width_of(case), *[1] * case.dims), 5)
    x, module = case.inputs(1), case.moved()
    if "linear" in case.kinds:
        layer = case.linear().double()
        layer.bias = nn.Parameter(torch.zeros(width(layer), dtype=torch.float64))
        moved = copy.deepcopy(layer)
        moved.bias.data = shift.flatten()
        with default_dtype(torch.float64):
            seen = differ(*(case.wrap(each)(x) for each in (layer, moved)))
    else:
        seen = differ(copy.deepcopy(module)(x), module(x + shift))
    assert seen == case.norm.bias


def width_of(case: Case) -> int:
    linear = case.linear()
    return width(linear) if linear else case.shape[1]


# What the training output may not see: changes of the input, or of the linear layer's weight.
CHANGES = {
    "shift": lambda x: x + 1.7,
    "scale": lambda x: 1.7 * x,
    "channel_shift": lambda x: x + spread(x, 1),
    "channel_scale": lambda x: x * spread(x, 1).exp(),
    "sample_shift": lambda x: x + spread(x, 0),
    "sample_scale": lambda x: x * spread(x, 0).exp(),
    "weight_shift": lambda w: w + spread(w, 0),
    "weight_scale": lambda w: w * spread(w, 0).exp(),
}


def spread(x: Tensor, axis: int) -> Tensor:
    """A number for each entry along `axis`, of the shape of `x` but for ones."""
    form = [size if each == axis else 1 for each, size in enumerate(x.shape)]
    return draw((x.shape[axis],), 13).reshape(form)


@each_plain
@settings(drawn, max_examples=3)
@given(seed=st.integers(0, 99))
def test_the_output_is_invariant_exactly_as_declared(case, seed):
    seen = {change for change in CHANGES if sees(case.exact, change, seed)}
    possible = {each for each in CHANGES if case.layer is not None or "weight" not in each}
    assert seen == possible - set(case.reference.INVARIANT)


def sees(case, change, seed):
    """Whether the training output differs after a change."""
    of_weight = change.startswith("weight")
    if of_weight and case.layer is None:
        return False
    change_it, x = CHANGES[change], case.inputs(seed)
    with default_dtype(torch.float64):
        layers = [case.linear(seed), case.linear(seed)]
        if of_weight:
            layers[1].weight.data = change_it(layers[1].weight.data)
        one, other = (case.wrap(layer) for layer in layers)
    return differ(one(x), other(x if of_weight else change_it(x)))


# ---- shapes, types and places ----


@each_plain
@settings(drawn, max_examples=6)
@given(data=st.data())
def test_shape_and_type_are_kept_and_the_input_is_not_changed(case, data):
    rows = data.draw(st.integers(2, 6))
    shape = (rows, *case.shape[1:])
    if case.layer is None:
        sides = data.draw(st.lists(st.integers(2, 5), min_size=case.dims, max_size=case.dims))
        shape = (rows, data.draw(st.integers(2, 9)), *sides)
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    case = Case(case.name, case.options, shape, case.layer)
    try:
        module, x = case.module(dtype=dtype), case.inputs(1).to(dtype)
        kept = x.clone()
        y = module(x)
    except NormError:
        return  # too few values or channels for this norm
    assert (y.dtype, y.device) == (dtype, x.device)
    assert x.equal(kept) and y.isfinite().all()
    linear = case.linear()
    assert y.shape == (linear(x.float()).shape if linear else x.shape)


@each_chosen
def test_a_batch_of_one_works_or_is_refused_with_its_shape(case):
    shape = (1, *case.shape[1:])
    for form in {shape, (*shape[:2], *[1] * case.dims)} if case.layer is None else {shape}:
        each = Case(case.name, case.options, form, case.layer)
        try:
            assert each.module()(each.inputs(1)).isfinite().all()
        except NormError as error:
            assert re.search(re.escape(str(form)) + r"|\d+ channel|\(N, C\)", str(error))


@each_plain
def test_the_gradient_check_passes_in_double_precision(case):
    partial = not getattr(case.reference, "GRADCHECK", True)  # on purpose, in training only
    module = case.moved()
    shape = (min(case.shape[0], 4), *case.shape[1:])
    keys = [key for key, _ in module.named_parameters()]
    for mode in (False,) if partial else (True, False):
        buffers = dict(module.train(mode).named_buffers())

        def call(x, *values, buffers=buffers):
            held = {key: value.clone() for key, value in buffers.items()}
            return functional_call(module, (dict(zip(keys, values, strict=True)), held), (x,))

        inputs = [case.inputs(1, shape), *(each.detach() for each in module.parameters())]
        inputs = [each.clone().requires_grad_() for each in inputs]
        assert torch.autograd.gradcheck(call, inputs, fast_mode=True)


@each_chosen
def test_the_memory_layout_of_the_input_does_not_matter(case):
    x = case.inputs(1)
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    layouts = [torch.stack([x, x + 1], dim=-1)[..., 0], turned]
    if x.dim() == 4:
        layouts.append(x.contiguous(memory_format=torch.channels_last))
    y, grad = forward_backward(case.moved(), x)
    for each in layouts:
        y_other, grad_other = forward_backward(case.moved(), each)
        same(y_other, y, 1e-12)
        same(grad_other, grad, 1e-12)


@each_chosen
def test_the_memory_layout_of_the_gradient_does_not_matter(case):
    x = case.inputs(1)
    found = []
    for strided in (False, True):
        module, leaf = case.moved(), x.clone().requires_grad_()
        y = module(leaf)
        grad = y.new_tensor(0.7).expand_as(y)  # as that of a sum: one number, whose strides are 0
        y.backward(grad if strided else grad.contiguous())
        found.append([leaf.grad, *(each.grad for each in module.parameters())])
    for one, other in zip(*found, strict=True):
        same(one, other, 1e-12)


@each_plain
def test_another_number_of_axes_is_refused(case):
    if case.layer is not None:
        pytest.skip("takes what its linear layer takes")
    for axes in {2, 3, 4, 5} - {len(case.shape)}:
        shape = (*case.shape, 2, 2, 2)[:axes]
        with pytest.raises(NormError, match=re.escape(str(shape))):
            case.module()(torch.randn(shape, dtype=torch.float64))


@each_name
def test_dims_without_a_case_are_refused(name):
    found = cases(name)
    if not found or found[0].layer is not None:
        pytest.skip("takes what its linear layer takes")
    for dims in {0, 1, 2, 3} - {case.dims for case in found}:
        case = Case(name, {}, (4, 6, 5, 5, 5)[: dims + 2])
        with pytest.raises(NormError):
            case.module()(case.inputs(1))


@each_name
def test_layers_other_than_linear_and_conv2d_are_not_replaced(name):
    norm = create(name)
    if norm.linear(plain_layer := nn.Linear(4, 6)) is plain_layer:
        pytest.skip("leaves linear layers as they are")
    for layer in (nn.Conv1d(4, 6, 3), nn.Bilinear(4, 4, 6), nn.Identity()):
        with pytest.raises(NormError, match=type(layer).__name__):
            norm.linear(layer)


@each_plain
def test_shapes_are_known_without_values(case):
    with torch.device("meta"):
        linear = case.linear()
        module = case.wrap(linear)
        x = torch.empty(case.shape, requires_grad=True)
        expected = linear(x).shape if linear else x.shape
        for mode in (True, False):
            y = module.train(mode)(x)
            assert y.shape == expected
            y.sum().backward()
            assert x.grad.shape == x.shape


# ---- precision ----


@each_device
@each_chosen
def test_single_precision_is_within_1e_5_of_double_even_with_a_large_mean(case, device):
    machine.prepare(torch.get_num_threads())  # the GPU's arithmetic is that of a run
    features = case.layer is None
    shape = (*case.shape[:2], *[8] * case.dims) if features else case.shape
    case = Case(case.name, case.options, shape, case.layer)
    mean = getattr(case.reference, "MEAN", 50.0 if features else 0.0)
    mean = min(mean, 3.0) if case.options else mean  # such as chunks of two rows
    x, single, double = even(shape, 1).float() + mean, case.moved(dtype=torch.float32), case.moved()
    double.load_state_dict(single.state_dict())
    single, x32 = single.to(device), x.to(device)
    for mode in (True, False):
        if not mode:
            train_on(single, x32, 3)
            train_on(double, x.double(), 3)
        (y, grad), (y64, grad64) = (
            forward_backward(module.train(mode), each)
            for module, each in ((single, x32), (double, x.double()))
        )
        for each, exact in ((y.cpu(), y64), (grad.cpu(), grad64)):
            error, size = (float(t.abs().max()) for t in (each - exact, exact))
            assert error <= 1e-5 * max(size, 0.1)  # a gradient may vanish


def train_on(module, x, steps):
    for _ in range(steps):
        forward_backward(module.train(), x)


@each_device
@each_chosen
def test_statistics_are_taken_in_float32_under_bfloat16_autocast(case, device):
    features = case.layer is None
    mean = getattr(case.reference, "MEAN", 50.0 if features else 0.0)
    mean = min(mean, 3.0) if case.options else mean  # such as chunks of two rows
    x = (draw(case.shape, 1) + mean).bfloat16()
    low, exact = case.moved(dtype=torch.float32), case.moved()
    exact.load_state_dict(low.state_dict())
    low, given = low.to(device), x.to(device).requires_grad_()
    with torch.autocast(device, torch.bfloat16):
        y = low(given)
    y.float().sum().backward()
    assert all(
        value.grad is None or value.grad.dtype == torch.float32 for value in low.parameters()
    )
    expected = exact(x.double())
    expected.sum().backward()  # writes the state that belongs to the backward pass
    expected = expected.detach()
    assert y.dtype == torch.bfloat16
    # Half a unit in the last of 8 places for the output alone; a linear map adds roundings.
    error = float((y.detach().cpu().double() - expected).abs().max() / expected.abs().max())
    assert error <= (2**-8 if features else 2**-5)
    for key, value in saved_buffers(low).items():
        assert value.dtype in (torch.float32, torch.float64, torch.int64), key
        if features:
            same(value.cpu().double(), saved_buffers(exact)[key].double(), 1e-5 * max(1, mean), key)
    exact.load_state_dict(low.state_dict())
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        y = low.eval()(given)
    expected = exact.eval()(x.double()).detach()
    assert y.dtype == torch.bfloat16
    error = float((y.cpu().double() - expected).abs().max() / expected.abs().max())
    assert error <= (2**-8 if features else 2**-5)


# ---- one program for several models ----


@each_chosen
def test_a_stack_of_three_under_vmap_equals_three_in_a_loop(case):
    modules = [case.moved(seed) for seed in range(3)]
    frame = copy.deepcopy(modules[0])
    parameters, buffers = stack_module_state(copy.deepcopy(modules))

    def call(learned, held, x):
        return functional_call(frame, (learned, held), (x,))

    for t in range(3):
        xs = torch.stack([case.inputs(10 * t + lane) for lane in range(3)]).requires_grad_()
        y = vmap(call)(parameters, buffers, xs)
        up = draw(tuple(y.shape), t)
        y.backward(up)
        for lane, module in enumerate(modules):
            y_alone, grad_alone = forward_backward(module, xs[lane], up[lane])
            same(y[lane].detach(), y_alone)
            same(xs.grad[lane], grad_alone)
            for key, value in module.named_parameters():
                same(parameters[key].grad[lane], value.grad, what=key)
            for key, value in module.named_buffers():
                same(buffers[key][lane], value, what=key)
            descend(module.parameters())
        descend(parameters.values())


@pytest.mark.slow
@each_plain
def test_the_layer_compiles_to_one_graph(case):
    torch._dynamo.reset()
    eager, compiled = case.moved(), case.moved()
    x, up = case.inputs(1), draw(tuple(case.moved()(case.inputs(1)).shape), 2)
    program = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    for mode in (True, False):
        eager.train(mode), compiled.train(mode)
        for one, other in zip(
            forward_backward(program, x, up), forward_backward(eager, x, up), strict=True
        ):
            same(one, other)
    for key, value in saved_buffers(compiled).items():
        same(value, saved_buffers(eager)[key], what=key)


@pytest.mark.gpu
@each_plain
def test_the_gpu_computes_what_the_cpu_computes(case):
    here, there = case.moved(), case.moved().cuda()
    for t in range(2):
        x = case.inputs(t)
        for one, other in zip(
            forward_backward(there, x.cuda()), forward_backward(here, x), strict=True
        ):
            same(one.cpu(), other)
    for key, value in saved_buffers(there).items():
        same(value.cpu(), saved_buffers(here)[key], what=key)


# ---- options and facts ----


@each_name
def test_an_unknown_option_is_refused_by_name(name):
    with pytest.raises(NormError, match=f"norm.no_such_option=1: {name} has no option"):
        norms.create(name, no_such_option=1)


@each_name
def test_every_declared_limit_is_enforced(name):
    for key, declared in registry.facts("norm", name).options.items():
        outside = {
            "low": lambda limit: limit - 1,
            "high": lambda limit: limit + 1,
            "above": lambda limit: limit,
            "below": lambda limit: limit,
            "choices": lambda limit: "no_such_choice",
        }
        bad = [outside[kind](limit) for kind, limit in declared.limits.items()] + [[]]
        for value in bad:
            with pytest.raises(NormError, match=f"norm.{key}="):
                norms.create(name, **{key: value})


@each_name
def test_options_of_one_name_have_one_range(name):
    options = registry.facts("norm", name).options
    if "eps" in options:
        assert dict(options["eps"].limits) == {"low": 0}
    if "momentum" in options:
        assert dict(options["momentum"].limits) == {"low": 0, "high": 1}


@each_name
def test_a_whole_number_counts_from_one_or_from_zero_where_zero_means_at_once(name):
    for key, declared in registry.facts("norm", name).options.items():
        if "int" in declared.type.split(" | "):
            assert declared.limits["low"] in (0, 1), key
            case = plain(name)[0]
            if declared.limits["low"] == 0:
                module = Case(name, {key: 0}, case.shape, case.layer).module()
                assert module(case.inputs(0)).isfinite().all(), key


@each_plain
def test_affine_false_removes_weight_and_bias(case):
    if "affine" not in registry.facts("norm", case.name).options or "features" not in case.kinds:
        pytest.skip("has no affine values of its own")
    module = Case(case.name, {"affine": False}, case.shape, case.layer).module()
    layer = module.norm if len(case.kinds) > 1 else module
    assert not {"weight", "bias"} & {key for key, _ in layer.named_parameters()}


@each_name
def test_the_facts_of_a_norm_are_legal(name):
    norm = create(name)
    assert set(norm.places) <= set(PLACES) and norm.placement in norm.places
    assert norm.brings in registry.names("activation")
    assert norm.memory_format in ("channels_last", "contiguous")


@each_name
def test_the_limits_of_a_norm_are_told(name):
    assert re.search(r"(?m)^Limits: \w", registry.facts("norm", name).doc)


@each_name
def test_the_activation_it_brings_stands_where_the_run_names_none(name):
    norm = create(name)
    if norm.own_activation:
        assert type(norm).activation is not Norm.activation
    else:
        tanh = nn.Tanh()
        assert norm.activation(tanh, 4, 2) is tanh
        assert type(norm.activation(None, 4, 2)) is type(
            registry.find("activation", norm.brings)().build(4, 2)
        )


@each_name
def test_layers_over_time_share_what_is_learned_and_the_last_serves_later_steps(name):
    norm = create(name)
    try:
        layer = norm.layer(6, 0)
        over = norm.over_time(6, 3)
    except NormError:
        pytest.skip("refuses recurrent cells")
    if layer is None:
        assert over is None
        return
    count = sum(each.numel() for each in layer.parameters())
    assert sum(each.numel() for each in over.parameters()) == count
    x = draw((9, 6), 1).float()
    for t in [0, 1, 2] * 4:  # some keep their statistics back for a few forwards
        over(x * (t + 1), t)
    over.eval()
    assert over(x, 2).equal(over(x, 9))
    assert differ(over(x, 0), over(x, 2)) == norm.has_modes()
