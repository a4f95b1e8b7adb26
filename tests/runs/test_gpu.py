"""On a CUDA device: the values of the CPU, equal bits, no waiting, sweeps, and what goes wrong.

The first tests need none: they look at who touches a GPU, and when, with CUDA itself replaced.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runs.test_several_workers import config

from normbench.cli.main import main
from normbench.engine.train import TrainStep
from normbench.norms._units import Dropout
from normbench.parts import registry
from normbench.rows import Row
from normbench.runs import check
from normbench.runs.job import Job
from normbench.runs.reader import read_status
from normbench.runtime import machine
from normbench.settings import compose
from normbench.settings.schema import Config
from normbench.sweeps import completing, scheduler
from normbench.sweeps.items import Item

TINY = (
    *("data=synthetic", "device=cuda", "tb=false", "optimizer.lr=0.02", "lr_rule=none"),
    "eval_every=1000",  # epochs: before the first step and after the last
)
DENSE = (*TINY, "model=mlp", "model.width=32", "data.shape=[1,8,8]")
MAPS = (*TINY, "model=cnn", "data.shape=[3,8,8]")
NORMS = [*registry.names("norm"), "ws+gn", "wn+mean"]
# Nothing keeps the outputs of `ws` alone small: at 0.02 its loss goes from 77 to 1990 and back, and
# a run on the CPU in fp32 whose weights start 2^-9 away is up to 0.36 away from it.
SLOW = {"ws": ["optimizer.lr=0.0002"]}
WAITS = {"dbn"}  # for the eigenvalues, as its documentation says
linux = pytest.mark.skipif(sys.platform != "linux", reason="children are forked on Linux only")
gpu = pytest.mark.gpu


# ---- without a GPU ----


def on_gpus(folder: Path, monkeypatch: Any, gpus: int, *words: str) -> list[list[int]]:
    """Pool six runs on a machine of some GPUs; return pid, GPU and seed of each as it came."""
    device = [-1]

    def take(name: str, number: int) -> None:
        device[0] = number

    def train(chosen: Config, on_row: Any) -> str:
        with (folder / "log").open("a") as log:
            log.write(f"{os.getpid()} {device[0]} {chosen.seed}\n")
        time.sleep(0.2)
        if chosen.seed == 1:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return "finished"

    items = [Item(config(folder, f"seed={seed}", *words), {}) for seed in range(6)]
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    monkeypatch.setattr(machine, "take_device", take)
    monkeypatch.setattr(completing, "run", train)
    for item in items:
        object.__setattr__(item.config, "device", "cuda")
    scheduler.train_all(items, lambda *told: None)
    states = [item.state for item in items]
    assert states == ["finished", "failed", *["finished"] * 4]
    return [
        [int(word) for word in line.split()]
        for line in (folder / "log").read_text().split("\n")
        if line
    ]


@linux
def test_the_runs_of_a_sweep_are_spread_over_the_gpus(tmp_path, monkeypatch):
    found = on_gpus(tmp_path, monkeypatch, 2)
    assert {number for _, number, _ in found} == {0, 1}
    first, second = found[:2]
    assert first[0] != second[0] and first[1] != second[1]


@linux
def test_jobs_gives_several_long_lived_workers_on_one_gpu(tmp_path, monkeypatch):
    found = on_gpus(tmp_path, monkeypatch, 1, "jobs=3")
    assert {number for _, number, _ in found} == {0}
    processes = {pid for pid, _, _ in found}
    assert len(processes) == 4  # three, and one in place of that whose run failed


@linux
def test_a_run_that_failed_on_a_gpu_is_followed_by_a_process_of_its_own(tmp_path, monkeypatch):
    found = on_gpus(tmp_path, monkeypatch, 1)
    at = {seed: pid for pid, _, seed in found}
    assert at[0] == at[1] != at[2]
    assert len({at[seed] for seed in range(2, 6)}) == 1


@linux
def test_a_process_that_will_fork_workers_keeps_off_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: f"GPU seen by {os.getpid()}")
    alone = machine.environment("cuda", 1)["device_name"]
    forking = machine.environment("cuda", 1, workers=2)["device_name"]
    assert alone == f"GPU seen by {os.getpid()}"
    assert forking.startswith("GPU seen by ") and forking != alone


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
    ],
)
@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["batch=32"], "batch=16"),
        (["batch=30", "accumulate=3"], "batch=15"),
        (["batch=2"], "batch=1"),
    ],
)
def test_a_run_out_of_memory_names_a_smaller_batch(
    error, words, fix, tmp_path, monkeypatch, capsys
):
    def full(*_: Any) -> None:
        raise error

    monkeypatch.setattr(TrainStep, "__call__", full)
    given = [*words, "norm=gn", "data=synthetic", "data.shape=[1,8,8]", "model=mlp", "device=cpu"]
    assert main(["train", *given, "tb=false", f"outputs={tmp_path}"]) == 4
    said = capsys.readouterr().err
    assert f"{words[0]}: memory ran out" in said
    assert f"try: {fix}\n" in said
    (status,) = tmp_path.glob("runs/*/*/status.json")
    assert json.loads(status.read_text())["reason"] == "oom"


# ---- on a GPU ----


def latest(*words: str) -> list[str]:
    """The words without those whose key comes again: a command refuses a key given twice."""
    return list({word.partition("=")[0]: word for word in words}.values())


def chosen(*words: str) -> Config:
    """The configuration of some words, of which later ones stand instead of earlier ones."""
    (cell,) = compose.Grid(compose.loader()).cells(latest(*words), False)
    assert cell.config
    return cell.config


def applying(norm: str, model: str, *words: str) -> list[str]:
    """The words of a small run of a norm; skips where the norm has no place in the model."""
    given = [*(MAPS if model == "cnn" else DENSE), f"norm={norm}", *words]
    one = chosen(*given)
    if error := check.check_fit(one, one.shape, one.classes).error:
        pytest.skip(f"{norm} does not apply to {model}: {error.mistakes[0].why}")
    return given


def trained(*words: str) -> tuple[list[Row], str]:
    """All rows of a run, and the digest of its tensors."""
    machine.prepare(1)
    job = Job(chosen(*words))
    return list(job.rows()), job.state_sha256()


def nudged(seed: int, *words: str) -> list[Row]:
    """All rows of a run on the CPU whose parameters start one unit in the last place away."""
    machine.prepare(1)
    job = Job(chosen(*words, "device=cpu"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in job.model.parameters():
            signs = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            parameter.mul_(1 + 2**-23 * signs)
    return list(job.rows())


def losses(found: list[Row]) -> list[float]:
    return [row.values["train/loss"] for row in found if row.kind == "train"]


def apart(one: list[float], other: list[float]) -> float:
    """The largest relative difference."""
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


def allowed(here: list[float], nudges: list[list[float]]) -> list[float]:
    """How far a run with other rounding may be from `here`, up to each step.

    Rounding grows in training, at a ReLU that switches by a factor of a thousand in one step: up to
    four times as far as the farthest of the runs that began one unit in the last place away.
    """
    steps = range(1, len(here) + 1)
    return [
        1e-6 + 4 * max(apart(nudge[:count], here[:count]) for nudge in nudges) for count in steps
    ]


@gpu
@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_gpu_trains_as_the_cpu_does(norm, model, record_property):
    words = applying(norm, model, "batch=32", "steps=20", "log_every=1")
    there, here = (losses(trained(*words, f"device={device}")[0]) for device in ("cuda", "cpu"))
    record_property("first 5 steps apart", apart(there[:5], here[:5]))
    record_property("20 steps apart", apart(there, here))
    assert apart(there[:5], here[:5]) < 1e-4
    assert apart(there, here) < 1e-3


@gpu
@pytest.mark.parametrize("norm", NORMS)
def test_the_same_run_on_the_same_gpu_has_the_same_bits(norm):
    words = applying(norm, "cnn", "batch=32", "steps=20", "log_every=1", "dropout=0.1")
    assert trained(*words) == trained(*words)


@gpu
@pytest.mark.parametrize("model", ["rnn", "lstm", "resnet20", "lenet"])
def test_models_have_the_same_bits_on_the_same_gpu_and_train_as_on_the_cpu(model, record_property):
    words = (*TINY, f"model={model}", "norm=ln", "batch=32", "steps=10", "log_every=1")
    shape = "data.shape=[3,16,16]" if model == "resnet20" else "data.shape=[1,28,28]"
    there, digest = trained(*words, shape)
    assert trained(*words, shape) == (there, digest)
    here = losses(trained(*words, shape, "device=cpu")[0])
    nudges = [losses(nudged(seed, *words, shape)) for seed in range(4)]
    for count, bound in enumerate(allowed(here, nudges), 1):
        distance = apart(losses(there)[:count], here[:count])
        record_property(f"{count} steps apart, allowed", [distance, bound])
        assert distance <= bound


class Watch:
    """Lets each wait for the GPU be an error, from the second step to the one before the last."""

    def __init__(self, monkeypatch: Any, last: int) -> None:
        self.real, self.last, self.step = TrainStep.__call__, last, 0
        monkeypatch.setattr(TrainStep, "__call__", lambda *given: self(*given))

    def __call__(self, update: TrainStep, batch: Any, lr: float) -> None:
        self.step += 1
        strict = 2 <= self.step < self.last
        torch.cuda.set_sync_debug_mode("error" if strict else "default")
        self.real(update, batch, lr)


@pytest.fixture
def watch(monkeypatch: Any) -> Iterator[Any]:
    yield lambda last: Watch(monkeypatch, last)
    torch.cuda.set_sync_debug_mode("default")


@gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("norm", NORMS)
def test_between_two_rows_no_step_waits_for_the_gpu(norm, model, precision, watch):
    words = applying(norm, model, "batch=8", "steps=204", "log_every=204", f"precision={precision}")
    seen = watch(203)
    more = ("dropout=0.1", "augment=crop+flip+cutout", "clip=1.0")
    if norm in WAITS:
        with pytest.raises(RuntimeError, match="synchroniz"):
            trained(*words, *more)
        return
    trained(*words, *more)
    assert seen.step == 204


@gpu
@pytest.mark.parametrize("optimizer", registry.names("optimizer"))
def test_no_optimizer_waits_for_the_gpu(optimizer, watch, record_property):
    words = (*DENSE, "norm=bn", "batch=8", "steps=104", "log_every=104", f"optimizer={optimizer}")
    given = [word for word in words if not word.startswith("optimizer.")]
    seen = watch(103)
    trained(*given)
    assert seen.step == 104


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=gpu)]
)
@pytest.mark.parametrize("norm", NORMS)
def test_bf16_is_near_fp32(norm, device, record_property):
    words = applying(norm, "cnn", "batch=32", "steps=20", "log_every=1", f"device={device}")
    words += SLOW.get(norm, [])
    half, full = (losses(trained(*words, f"precision={name}")[0]) for name in ("bf16", "fp32"))
    assert len(half) == 20  # none diverged
    record_property("first step apart", apart(half[:1], full[:1]))
    record_property("20 steps apart", apart(half, full))
    assert apart(half[:1], full[:1]) < 0.01
    assert apart(half, full) < 0.1


@gpu
@pytest.mark.parametrize("stats", ["running", "batch", "dataset"])
def test_each_way_to_evaluate_gives_what_it_gives_on_the_cpu(stats):
    words = (*MAPS, "norm=bn", "batch=32", "steps=20", f"eval_stats={stats}", "dropout=0.0")
    there, here = (trained(*words, f"device={device}")[0] for device in ("cuda", "cpu"))
    for one, other in zip(there, here, strict=True):
        for name in ("val/loss", "test/loss"):
            if name in other.values:
                assert one.values[name] == pytest.approx(other.values[name], rel=1e-3)


@gpu
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_layers_of_a_run_look_as_on_the_cpu(model):
    words = (*(MAPS if model == "cnn" else DENSE), "norm=bn", "steps=5", "diagnose=full")
    there, here = (trained(*words, f"device={device}")[0] for device in ("cuda", "cpu"))
    found, expected = (
        [row.values for row in rows if row.kind == "layers"] for rows in (there, here)
    )
    assert [list(values) for values in found] == [list(values) for values in expected]
    for one, other in zip(found, expected, strict=True):
        numbers = [tag for tag, value in other.items() if not isinstance(value, str)]
        expected = [other[tag] for tag in numbers]  # histograms may differ by a value at a border
        assert [one[tag] for tag in numbers] == pytest.approx(expected, rel=1e-2, abs=1e-4)


@gpu
def test_images_are_augmented_to_the_same_bytes_as_on_the_cpu():
    words = (*MAPS, "augment=crop+flip+cutout", "batch=64")
    there, here = (Job(chosen(*words, f"device={device}")).train for device in ("cuda", "cpu"))
    index = here.order(0, 0, 64)[0]
    noise = here.augment_noise(0, 0, 1, 64)[0]
    x, y = there.gather(index.cuda(), noise=noise.cuda())
    expected, labels = here.gather(index, noise=noise)
    assert torch.equal(x.cpu(), expected) and torch.equal(y.cpu(), labels)


@gpu
def test_dropout_draws_on_the_gpu_and_leaves_global_state_alone():
    before = torch.cuda.get_rng_state()
    job = Job(chosen(*DENSE, "dropout=0.3", "norm=none", "steps=5"))
    list(job.rows())
    assert torch.equal(torch.cuda.get_rng_state(), before)
    (one, *_) = (module for module in job.model.modules() if isinstance(module, Dropout))
    assert one.generator.device.type == "cuda"


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "normbench", "train", *latest(*words), f"outputs={folder}"]


def states(folder: Path) -> dict[str, Any]:
    """What the runs of a folder came to, by name and seed."""
    found = sorted(folder.glob("runs/*/*/status.json"))
    return {f"{file.parts[-3]}/{file.parts[-2]}": json.loads(file.read_text()) for file in found}


@gpu
def test_a_sweep_on_a_gpu_gives_the_same_bits_however_many_jobs(tmp_path):
    digests = []
    for jobs in (1, 3):
        words = ("-m", *DENSE, "norm=bn,gn,ln", "seeds=2", "steps=20", f"jobs={jobs}")
        done = subprocess.run(
            command(tmp_path / str(jobs), *words), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        found = states(tmp_path / str(jobs))
        assert len(found) == 6
        assert {status["state"] for status in found.values()} == {"finished"}
        digests.append({name: status["state_sha256"] for name, status in found.items()})
    assert digests[0] == digests[1]


@gpu
def test_more_workers_than_gpus_are_refused(capsys, tmp_path):
    there = torch.cuda.device_count()
    words = [*DENSE, f"gpus={there + 1}", f"batch={8 * (there + 1)}", f"outputs={tmp_path}"]
    assert main(["train", *words]) == 4
    said = capsys.readouterr().err
    assert f"gpus={there + 1}: this machine has {there} CUDA device" in said
    assert not list(tmp_path.iterdir())


@gpu
def test_a_model_too_large_for_the_gpu_is_told_with_a_smaller_batch(capsys, tmp_path):
    torch.cuda.set_per_process_memory_fraction(0.001)
    try:
        words = latest(*DENSE, "model.width=6144", "norm=none", f"outputs={tmp_path}")
        assert main(["train", *words]) == 4
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    said = capsys.readouterr().err
    assert "batch=64: memory ran out" in said and "try: batch=32\n" in said
    (status,) = states(tmp_path).values()
    assert (status["state"], status["reason"]) == ("failed", "oom")


@gpu
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_run_on_a_gpu_that_is_stopped_says_so(sent, tmp_path):
    words = (*DENSE, "norm=bn", "steps=1000000", "log_every=10", "eval_every=1000")
    process = subprocess.Popen(command(tmp_path, *words), stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 120
        while not any(file.stat().st_size for file in tmp_path.glob("runs/*/*/metrics.jsonl")):
            assert time.monotonic() < limit and process.poll() is None
            time.sleep(0.1)
        process.send_signal(sent)
        assert process.wait(60) == {signal.SIGINT: 130, signal.SIGTERM: 143}[sent]
    finally:
        process.kill()
        process.wait()
    (status,) = states(tmp_path).values()
    assert status["state"] == "interrupted"


@gpu
@pytest.mark.parametrize("norm", ["syncbn", "gn"])
def test_two_gpus_train_as_one_process(norm, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("nccl wants a GPU for each worker, and there is one")
    words = (*MAPS, f"norm={norm}", "steps=10", "batch=32")
    found = []
    for gpus in (1, 2):
        folder = tmp_path / str(gpus)
        subprocess.run(command(folder, *words, f"gpus={gpus}"), check=True, timeout=300)
        (name,) = states(folder)
        assert read_status(folder / "runs" / name)
        text = (folder / "runs" / name / "metrics.jsonl").read_text()
        found.append([json.loads(line) for line in text.splitlines()])
    for one, other in zip(*found, strict=True):
        assert one.get("val/loss", 0) == pytest.approx(other.get("val/loss", 0), rel=1e-3)


# ---- the script ----


@pytest.mark.slow
def test_the_script_of_the_gpu_passes_at_tiny_sizes_on_the_cpu(tmp_path, monkeypatch):
    script = Path(__file__).resolve().parents[2] / "scripts/gpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = [sys.executable, str(script), "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["facts"]["device"] == "cpu"
    assert found["tests"]["collected"] == found["tests"]["skipped"] > 200
    assert all(row["losses_apart"] < 0.01 for row in found["throughput"]["rows"])
    assert [row["state"] for row in found["comparison"]["rows"] if row["norm"] == "bn"] == [
        "finished"
    ] * 2
    page = subprocess.run([*words[:2], "--page", words[3]], capture_output=True, text=True)
    assert "**No GPU was there**" in page.stdout
    for title in ("## Tests", "## Steps per second", "## Norms on synthetic"):
        assert title in page.stdout
