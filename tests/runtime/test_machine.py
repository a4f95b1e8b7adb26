"""What is recorded of the machine, and what of torch's settings is put back."""

from __future__ import annotations

import json
import threading

import torch
from engine.test_train import config

from normbench.runs.check import check_fit
from normbench.runs.run import run
from normbench.runtime import collectives, machine


def test_environment_has_what_moves_digits(tmp_path, monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    done = config("norm=bn", "steps=1", "threads=1", f"outputs={tmp_path}")
    run(done)
    (entry,) = json.loads((done.directory / "environment.json").read_text())
    assert entry["threads"] == 1 and entry["cpu"]
    numerics = entry["numerics"]
    assert numerics["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert numerics["variables"]["MKL_CBWR"] == "COMPATIBLE"
    assert numerics["matmul_precision"] == "highest"
    assert numerics["cuda"] is None  # of a run on the CPU


def test_one_thread_is_for_the_block_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with machine.one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_check_leaves_the_threads_of_torch_and_the_number_of_workers():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert check_fit(config("norm=bn"), (1, 8, 8), 10).error is None
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert collectives.world_size() == 1


def test_planned_workers_are_seen_by_the_check_that_plans_them_alone():
    seen = []
    with collectives.planned(3):
        other = threading.Thread(target=lambda: seen.append(collectives.world_size()))
        other.start()
        other.join()
        assert collectives.world_size() == 3
    assert seen == [1] and collectives.world_size() == 1
