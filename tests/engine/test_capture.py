"""The captured step: the same bits as the step that it was recorded from, or that step itself."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contracts.cases import own
from torch import Tensor, nn

from normbench.engine.capture.captured import Captured, doubt
from normbench.engine.capture.clean import POOL, clean
from normbench.engine.capture.program import Recorder
from normbench.engine.capture.replay import replay
from normbench.runs.job import Job
from normbench.runs.run import run
from normbench.settings import compose
from normbench.settings.schema import Config

DATA = ("data=synthetic", "data.shape=[1,8,8]", "device=cpu", "steps=6", "eval_every=0.05")
NORMS = [*own("norm"), "ws+gn"]
GROUPS = {("mlp", "dbn"): 50, ("mlp", "iternorm"): 50, ("cnn", "dbn"): 4, ("cnn", "iternorm"): 4}
LACKING = {("mlp", "in"), ("mlp", "bin")}  # which take statistics over positions
STEPS = [
    *(["model=rnn", f"norm={norm}"] for norm in ("none", "bn", "ln", "evalnorm")),
    *(["model=lstm", f"norm={norm}", "blank_steps=2", "steps=12"] for norm in ("bn", "gn")),
    ["model=resnet20", "data.shape=[3,8,8]", "steps=4"],
    ["model=lenet", "data.shape=[1,28,28]"],
    ["model=resnet20", "placement=preact", "norm=gn", "data.shape=[3,8,8]", "steps=4"],
    *(
        pytest.param([f"{kind}={name}", "model=mlp"], marks=[pytest.mark.slow] * (k % 2))
        for kind in ("activation", "optimizer")
        for k, name in enumerate(own(kind))
    ),
    *([f"norm={norm}", "dropout=0.3", "eval_every=0.02"] for norm in ("bn", "gn")),
    *([f"norm={norm}", "accumulate=4"] for norm in ("bn", "cmbn", "gn", "agc", "mabn")),
    *([f"norm={norm}", "precision=bf16"] for norm in ("bn", "gn", "ln", "brn", "ws")),
    *([f"norm={norm}", "placement=post"] for norm in ("bn", "wn+mean")),
    ["norm=bn", "norm_batch=2"],
    ["norm=bn", "augment=crop+flip+cutout", "clip=0.5", "bias=on"],
    ["norm=bn", "eval_stats=dataset", "eval_every=0.02"],
    ["norm=bn", "eval_stats=batch", "diagnose=full"],
    ["model=mlp", "norm=bn", "optimizer.lr=1e20"],
]


def config(*words: str) -> Config:
    given = {word.partition("=")[0] for word in words}
    base = [word for word in (*DATA, "batch=8") if word.partition("=")[0] not in given]
    (cell,) = compose.Grid(compose.loader()).cells([*base, *words], False)
    assert cell.config, cell
    return cell.config


def trained(*words: str) -> tuple[Job, list[str], str]:
    """A job that has trained, its rows and the digest of all its tensors."""
    job = Job(config(*words))
    rows = [repr(row) for row in job.rows()]
    return job, rows, job.state_sha256()


def recorded(job: Job) -> list[Captured]:
    steps = job.train_step
    assert isinstance(steps.gradient, Captured) and isinstance(steps.further, Captured)
    return [steps.gradient, *[steps.further] * (job.config.accumulate > 1)]


def check(words: list[str]) -> None:
    job, rows, digest = trained(*words, "capture=on")
    assert [each.reason for each in recorded(job)] == [""] * len(recorded(job))
    assert all(each.replays for each in recorded(job))
    _, eager_rows, eager_digest = trained(*words, "capture=off")
    assert rows == eager_rows
    assert digest == eager_digest


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("model", [pytest.param("mlp", marks=pytest.mark.slow), "cnn"])
def test_captured_steps_of_a_norm_have_the_bits_of_eager_ones(model: str, norm: str) -> None:
    if (model, norm) in LACKING:
        pytest.skip("takes statistics over positions")
    groups = GROUPS.get((model, norm))
    check([f"model={model}", f"norm={norm}", *([f"norm.groups={groups}"] if groups else [])])


@pytest.mark.parametrize("words", STEPS, ids=" ".join)
def test_captured_steps_have_the_bits_of_eager_ones(words: list[str]) -> None:
    check(words)


def test_short_runs_stay_eager_and_long_ones_have_the_same_bits() -> None:
    short, _, _ = trained("model=mlp", "steps=10")
    assert not recorded(short)[0].replays and not recorded(short)[0].recorded
    long, rows, digest = trained("model=mlp", "steps=40")
    assert recorded(long)[0].replays
    assert (rows, digest) == trained("model=mlp", "steps=40", "capture=off")[1:]


def test_capture_is_no_part_of_a_run_s_name() -> None:
    assert config("capture=on").sha256 == config("capture=off").sha256 == config().sha256


def test_recording_does_not_import_torch_s_compiler() -> None:
    code = (
        "import sys, runpy; sys.path.insert(0, 'tests')\n"
        "from engine.test_capture import trained, recorded\n"
        "assert recorded(trained('model=mlp', 'norm=bn', 'capture=on')[0])[0].replays\n"
        "assert not {'sympy', 'torch._dynamo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Layer(nn.Module):
    """A layer with a weight, a buffer, and something that a recording may not miss."""

    def __init__(self, change: Callable[[Layer, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.change, self.calls = nn.Parameter(torch.ones(3)), change, 0
        self.register_buffer("seen", torch.zeros(()))
        self.kept: dict[str, Any] = {"scale": 2.0}
        self.outside = torch.ones(())

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self, x * self.weight)


def counts(layer: Layer, x: Tensor) -> Tensor:
    layer.calls += 1
    return x


def schedules(layer: Layer, x: Tensor) -> Tensor:
    layer.calls += 1
    return x * 2 if layer.calls > 100 else x


def branches(layer: Layer, x: Tensor) -> Tensor:
    return x * 2 if x.sum() > 0 else x


def lists(layer: Layer, x: Tensor) -> Tensor:
    return x * 2 if x.detach().tolist()[0][0] > 5 else x


def draws_by_python(layer: Layer, x: Tensor) -> Tensor:
    return x * random.random()


def draws_by_itself(layer: Layer, x: Tensor) -> Tensor:
    return x + torch.rand(3, generator=torch.Generator().manual_seed(1))


def writes_outside(layer: Layer, x: Tensor) -> Tensor:
    layer.outside.add_(1)
    return x * layer.outside


def selects(layer: Layer, x: Tensor) -> Tensor:
    return x * x[x > 0].numel()


def captured(layer: Layer) -> tuple[Captured, Callable[[Tensor], tuple[Tensor, ...]]]:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        (grad,) = torch.autograd.grad(layer(x).sum(), [layer.weight])
        return (grad,)

    return Captured(function, layer), function


@pytest.mark.parametrize(
    "change",
    [counts, schedules, branches, lists, draws_by_python, draws_by_itself, writes_outside, selects],
)
def test_what_depends_on_more_than_shapes_stays_eager(change: Any) -> None:
    made, _ = captured(Layer(change))
    for _ in range(12):
        made(torch.randn(2, 3))
    assert not made.replays
    assert made.reason


def test_a_hook_keeps_a_step_eager() -> None:
    layer = Layer(lambda layer, x: x)
    layer.register_forward_hook(lambda module, inputs, output: output * 2)
    made, function = captured(layer)
    for _ in range(4):
        x = torch.randn(2, 3)
        assert torch.equal(made(x)[0], function(x)[0])
    assert made.reason == "a module has hooks"


@pytest.mark.parametrize("name", ["kept", "scale", "training", "hook", "weight"])
def test_a_module_that_was_changed_is_recorded_anew(name: str) -> None:
    def scaled(layer: Layer, x: Tensor) -> Tensor:
        factor = layer.kept["scale"] * getattr(layer, "scale", 1.0)
        return x * (factor if layer.training else -factor)

    layer = Layer(scaled)
    made, function = captured(layer)
    for _ in range(4):
        made(torch.randn(2, 3))
    assert made.replays
    changes: dict[str, Callable[[], Any]] = {
        "kept": lambda: layer.kept.update(scale=5.0),
        "scale": lambda: setattr(layer, "scale", 7.0),
        "training": layer.eval,
        "hook": lambda: layer.register_forward_hook(lambda *_: _[2] * 3),
        "weight": lambda: setattr(layer, "weight", nn.Parameter(torch.full((3,), 2.0))),
    }
    changes[name]()
    doubt(made)
    for _ in range(4):
        x = torch.randn(2, 3)
        assert torch.equal(made(x)[0], function(x)[0])


def test_shapes_are_recorded_apart() -> None:
    layer = Layer(lambda layer, x: x * x.shape[0])
    made, function = captured(layer)
    for size in (2, 3, 2, 3, 2, 3, 4):
        x = torch.randn(size, 3)
        assert torch.equal(made(x)[0], function(x)[0])
        turned = torch.randn(3, size).T
        assert torch.equal(made(turned)[0], function(turned)[0])
    assert len(made.replays) == 4


def test_the_buffers_and_generators_are_those_of_one_step() -> None:
    def noisy(layer: Layer, x: Tensor) -> Tensor:
        layer.seen.add_(1)
        return x + torch.rand(3, generator=layer.generator) + torch.rand(3)

    def results(count: int, eager: bool) -> list[Tensor]:
        torch.manual_seed(0)
        layer = Layer(noisy)
        made, function = captured(layer)
        found = []
        for step in range(count):
            if step % 5 == 0:
                layer.generator = torch.Generator().manual_seed(step)
            found += (function if eager else made)(torch.ones(2, 3))
        assert eager or made.replays
        return [*found, layer.seen]

    for one, other in zip(results(12, True), results(12, False), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("size", [8, 7])
def test_maxima_of_windows_are_the_same_however_they_are_taken(size: int, last: bool) -> None:
    x = torch.randn(3, 5, size, size)
    x[0, 0, 0, 0], x[1, 2], x[2, :, 0] = float("nan"), -float("inf"), float("inf")
    x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    recorder = Recorder([], [x])
    with recorder:
        expected = F.max_pool2d(F.max_pool2d(x, 2), 2, 2).relu()
    program = clean(recorder.program([expected]))
    assert sum(call.op is POOL for call in program.calls) == (0 if last and size == 8 else 2)
    (found,) = replay(program, [], {})(x)
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())
    assert torch.equal(found.isnan(), expected.isnan()) and found.stride() == expected.stride()


@pytest.mark.parametrize(
    "words", [["norm=bn"], ["norm=bn", "dropout=0.2"], ["model=mlp", "norm=ln"]]
)
def test_evaluation_is_captured_in_both_modes(words: list[str]) -> None:
    job, rows, _ = trained(*words, "capture=on")
    judge = job.evaluator
    assert isinstance(judge.evaluated, Captured) and isinstance(judge.trained, Captured)
    assert judge.evaluated.replays and not judge.evaluated.reason
    assert bool(judge.trained.replays) == judge.modes_differ
    assert rows == trained(*words, "capture=off")[1]


def test_a_run_says_why_its_steps_stay_eager(monkeypatch: Any, tmp_path: Path) -> None:
    plain = nn.Flatten.forward

    def reading(self: nn.Flatten, x: Tensor) -> Tensor:
        return plain(self, x if float(x.detach().amax()) < 1e9 else -x)

    monkeypatch.setattr(nn.Flatten, "forward", reading)
    made = config("model=mlp", "capture=on", f"outputs={tmp_path}")
    assert run(made) == "finished"
    (warning,) = json.loads((made.directory / "status.json").read_text())["warnings"]
    assert warning.startswith("capture=on: steps are not replayed: what it computes depends on val")
