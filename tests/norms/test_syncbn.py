"""Statistics over several workers: real processes on gloo equal one process on the joined batch.

The file is also the program of these processes: `python test_syncbn.py WORKERS FOLDER`.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from commands import LIMIT_S
from contracts.cases import create
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from normbench import norms
from normbench.errors import NormError
from normbench.parts import registry
from normbench.runtime import collectives

STEPS = 3
SPLITS = {  # samples of each worker
    2: {"equal": [3, 3], "unequal": [1, 5]},
    4: {"equal": [3, 3, 3, 3], "unequal": [1, 5, 2, 4]},
}
PLACES = {"dense": (), "maps": (4, 3), "points": (1, 1)}  # what follows (N, C)
OPTIONS: dict[str, dict[str, Any]] = {  # with these, something happens in the steps tested
    "brn": {"start": 0, "rmax_end": 2, "dmax_end": 2, "rmax": 1.1, "dmax": 0.2, "momentum": 0.4},
    "evalnorm": {"alpha": "fit", "momentum": 0.4},
    "cmbn": {"window": 2},
}
NAMES = [
    *["syncbn"],
    *[
        each
        for each in registry.names("norm")
        if "norm_batch" in registry.facts("norm", each).options
    ],
]
FACTS = ["output", "input gradient", "parameter gradient", "buffer"]


def cases(workers: int) -> dict[str, tuple[str, str, list[int]]]:
    """Name, place and split of the comparisons of global statistics with the joined batch."""
    return {
        f"{name} {place} {kind}": (name, place, split)
        for kind, split in SPLITS[workers].items()
        for name in NAMES
        for place in (PLACES if name in ("syncbn", "bin") else ["dense"])
        if name != "bin" or place == "maps"
    }


def build(name: str, place: str, **options: Any) -> nn.Module:
    """A norm with random parameters, the same in every process."""
    norm, dims = create(name, **OPTIONS.get(name, {}), **options), len(PLACES[place])
    module = (norm.layer(5, dims) or norm.activation(None, 5, dims)).double()
    generator = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def draw(samples: int, place: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, 5, *PLACES[place])
    return 3 + 2 * torch.randn(shape, generator=generator, dtype=torch.float64)


def train(module: nn.Module, place: str, rows: slice, samples: int) -> dict[str, Tensor]:
    """Train on some rows of batches of `samples`; their loss weighs as their part of the batch."""
    seen: dict[str, Tensor] = {}
    for step in range(STEPS):
        x = draw(samples, place, step)[rows].requires_grad_()
        up = draw(samples, place, 10 + step)[rows]
        y = module(x)
        mean_loss = (y * up).flatten(1).sum(1).mean()
        (mean_loss * (len(x) / samples)).backward()
        seen |= {f"output {step}": y.detach(), f"input gradient {step}": x.grad}
        seen |= {f"buffer {key} {step}": value.clone() for key, value in module.named_buffers()}
    for key, value in module.named_parameters():
        seen[f"parameter gradient {key}"] = value.grad
    return seen


def rows_of(split: list[int], rank: int) -> slice:
    return slice(sum(split[:rank]), sum(split[: rank + 1]))


# ---- what each worker does ----


def work(rank: int, workers: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    patience = timedelta(seconds=60)
    dist.init_process_group("gloo", store, patience, world_size=workers, rank=rank)
    seen: dict[str, Any] = {}
    for case, (name, place, split) in cases(workers).items():
        options = {} if name == "syncbn" else {"norm_batch": "global"}
        module = build(name, place, **options)
        seen[case] = train(module, place, rows_of(split, rank), sum(split))
    equal = SPLITS[workers]["equal"]
    rows, samples = rows_of(equal, rank), sum(equal)
    for case, (name, options) in sets(workers).items():
        seen[case] = train(build(name, "maps", **options), "maps", rows, samples)
    seen["refused"] = refusal(draw(samples, "dense", 0)[rows])
    seen["stack"] = stacked(rows, samples)
    if rank == 0:  # were the others needed, this would wait for ever
        seen["evaluation"] = build("syncbn", "dense").eval()(draw(2, "dense", 0)).detach()
    seen["rank"] = torch.tensor([collectives.rank(), collectives.world_size()])
    torch.save(seen, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def sets(workers: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Sets of samples other than all workers, three samples on each."""
    return {
        "own batch": ("bn", {"norm_batch": "worker"}),
        "own batch by number": ("bn", {"norm_batch": 3}),
        "chunks": ("bn", {"norm_batch": 2}),
        "chunks larger than the batch": ("ghostbn", {"size": 6}),
        "pairs": ("bn", {"norm_batch": 6}),
        "all by number": ("bn", {"norm_batch": 3 * workers}),
    }


def refusal(x: Tensor) -> str:
    try:
        build("bn", "dense", norm_batch=4)(x)
    except NormError as error:
        return str(error)
    return "accepted"


def stacked(rows: slice, samples: int) -> dict[str, Tensor]:
    """The difference of two lanes under vmap from two layers alone."""
    layers = [build("syncbn", "dense") for _ in range(2)]
    parameters, buffers = stack_module_state([build("syncbn", "dense") for _ in range(2)])
    xs = torch.stack([draw(samples, "dense", seed)[rows] for seed in range(2)]).requires_grad_()
    ys = vmap(lambda *state: functional_call(layers[0], state[:2], state[2:]))(
        parameters, buffers, xs
    )
    (ys**3).sum().backward()
    gaps = {}
    for lane in range(2):
        x = xs[lane].detach().requires_grad_()
        y = layers[lane](x)
        (y**3).sum().backward()
        gaps[f"output {lane}"] = (y - ys[lane]).detach()
        gaps[f"gradient {lane}"] = x.grad - xs.grad[lane]
        gaps[f"mean {lane}"] = layers[lane].running_mean - buffers["running_mean"][lane]
    return gaps


def launch(workers: int, folder: Path) -> None:
    """Fork the workers, torch imported once for all."""
    fork = multiprocessing.get_context("fork")
    found = [fork.Process(target=work, args=(rank, workers, folder)) for rank in range(workers)]
    for each in found:
        each.start()
    for each in found:
        each.join()
    sys.exit(max(abs(each.exitcode or 0) for each in found))


# ---- what is expected of them ----


@pytest.fixture(scope="module", params=[2, 4])
def seen(request, tmp_path_factory):
    """What each worker saw, of two and of four."""
    folder = tmp_path_factory.mktemp("workers")
    command = [sys.executable, __file__, str(request.param), str(folder)]
    path = os.pathsep.join(each for each in sys.path if each)
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


def same(actual: Tensor, expected: Tensor, what: str) -> None:
    torch.testing.assert_close(
        actual, expected, rtol=1e-9, atol=1e-9, msg=lambda text: f"{what}: {text}"
    )


def agree(found: list[dict[str, Tensor]], joined: dict[str, Tensor], fact: str) -> None:
    """Assert that workers agree with one process that had all their samples."""
    keys = [key for key in joined if key.startswith(fact)]
    for key in keys:
        parts = [each[key] for each in found]
        if fact in ("output", "input gradient"):
            same(torch.cat(parts), joined[key], key)
        elif fact == "parameter gradient":
            same(sum(parts), joined[key], key)
        else:
            for part in parts:
                same(part, joined[key], key)


@pytest.mark.parametrize("fact", FACTS)
@pytest.mark.parametrize("case", cases(4))
def test_global_statistics_equal_those_of_the_joined_batch(seen, case, fact):
    name, place, split = cases(len(seen))[case]
    module = build("bn" if name == "syncbn" else name, place)
    joined = train(module, place, slice(None), sum(split))
    agree([each[case] for each in seen], joined, fact)


@pytest.mark.parametrize("fact", FACTS)
def test_pairs_of_workers_are_joined_by_a_number_of_samples(seen, fact):
    for pair in range(len(seen) // 2):
        joined = train_part(slice(6 * pair, 6 * pair + 6), 3 * len(seen))
        agree([each["pairs"] for each in seen[2 * pair : 2 * pair + 2]], joined, fact)


@pytest.mark.parametrize("fact", FACTS)
def test_all_workers_are_joined_by_the_number_of_all_samples(seen, fact):
    joined = train_part(slice(None), 3 * len(seen))
    agree([each["all by number"] for each in seen], joined, fact)


@pytest.mark.parametrize("fact", FACTS)
@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("own batch", {}),
        ("own batch by number", {}),
        ("chunks", {"norm_batch": 2}),
        ("chunks larger than the batch", {}),
    ],
)
def test_statistics_of_a_worker_or_less_are_its_own(seen, case, options, fact):
    for rank, each in enumerate(seen):
        alone = train_part(slice(3 * rank, 3 * rank + 3), 3 * len(seen), **options)
        agree([each[case]], alone, fact)


def train_part(rows: slice, samples: int, **options: Any) -> dict[str, Tensor]:
    """What bn alone sees of some rows; its loss weighs as in `train`."""
    return train(build("bn", "maps", **options), "maps", rows, samples)


def test_a_number_that_makes_no_groups_of_workers_is_refused(seen):
    for each in seen:
        assert "norm.norm_batch=4: the batches of" in each["refused"]
        assert f"{len(seen)} workers with 3 samples each do not make groups of 4" in each["refused"]
        assert f"try: norm.norm_batch={3 * len(seen)}" in each["refused"]


def test_lanes_under_vmap_are_summed_over_workers_each_for_itself(seen):
    for each in seen:
        for key, gap in each["stack"].items():
            same(gap, torch.zeros_like(gap), key)


def test_evaluation_does_not_wait_for_other_workers(seen):
    expected = build("bn", "dense").eval()(draw(2, "dense", 0))
    same(seen[0]["evaluation"], expected.detach(), "evaluation")


def test_every_worker_knows_its_number_and_how_many_there_are(seen):
    assert [each["rank"].tolist() for each in seen] == [[k, len(seen)] for k in range(len(seen))]


# ---- one process ----


def test_a_single_process_is_one_worker_and_sums_are_the_tensor_itself():
    x = torch.ones(3)
    assert (collectives.rank(), collectives.world_size(), collectives.joined()) == (0, 1, False)
    assert collectives.all_reduce_sum(x, 1) is x


def test_a_plan_lets_one_value_per_worker_pass_the_check_of_shapes():
    with torch.device("meta"):
        layer, x = norms.create("syncbn").layer(5, 0), torch.empty(1, 5, requires_grad=True)
        with pytest.raises(NormError, match=r"SyncBatchNorm: input \(1, 5\) leaves 1 value"):
            layer(x)
        with collectives.planned(2):
            layer(x).sum().backward()
    assert x.grad.shape == x.shape and collectives.world_size() == 1


def test_a_plan_refuses_numbers_that_make_no_groups_of_its_workers():
    with torch.device("meta"):
        layer, x = norms.create("bn", norm_batch=24).layer(5, 0), torch.empty(8, 5)
        with collectives.planned(4), pytest.raises(NormError, match="they make 8, 16, 32"):
            layer(x)


if __name__ == "__main__":
    launch(int(sys.argv[1]), Path(sys.argv[2]))
