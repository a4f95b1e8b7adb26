"""The scheduler of many runs: which run goes when, each in a forked child or with others alike."""

from __future__ import annotations

import sys
from fractions import Fraction
from functools import partial

from normbench.parts import registry
from normbench.rows import Row
from normbench.runs import build, columns, tensorboard
from normbench.runtime import machine
from normbench.settings.fields import AUTO
from normbench.settings.schema import Config
from normbench.sweeps import lanes
from normbench.sweeps.completing import run_one
from normbench.sweeps.items import Item
from normbench.sweeps.pool import OnChange, Pool

STEP = 4e6  # multiply-adds in the time that a step takes however few images it has


def max_parallel(config: Config) -> int:
    """Return how many runs like this one train at a time: `jobs`, or as cores or GPUs allow."""
    if config.dist["port"] is not None:
        return 1  # a port is for the workers of one run
    if isinstance(config.jobs, int):
        return config.jobs
    if config.device == "cuda":
        return machine.gpus() if config.gpus == 1 else 1
    return max(1, machine.cores() // ((config.other_threads or config.threads) * config.gpus))


def length(config: Config) -> float:
    """Estimate how long a run takes, in multiply-adds; to compare with others of its sweep.

    A backward pass takes twice as many as the forward pass that it belongs to.
    """
    assert config.steps
    judged = (1 + -(-config.steps // config.eval_steps)) * config.sizes[1] + config.sizes[2]
    return config.steps * STEP + (3 * config.steps * config.batch + judged) * build.work(config)


def train_all(items: list[Item], on_change: OnChange, grows: bool = False) -> None:
    """Train every unfinished run; `on_change` is called at each row and change of state.

    Args: grows: further runs of these cells may follow, too few to be trained together.
    Raises: KeyboardInterrupt or SystemExit once all children are gone.
    """
    todo = [item for item in items if not item.finished]
    if not todo:
        return
    _warm(todo)
    if sys.platform == "linux" and machine.rank_info() is None:
        configs = {i: item.config for i, item in enumerate(items) if not item.finished}
        lengths = {i: length(config) for i, config in configs.items()}
        parts = {i: Fraction(1, max_parallel(config)) for i, config in configs.items()}
        slots = max(part.denominator for part in parts.values())
        together = set() if grows else lanes.gaining(item.config for item in items)
        found = lanes.groups(configs, lengths, slots, together)
        Pool(items, found, parts, on_change).train()
        return
    # Forking is not safe with macOS's frameworks, and torchrun's processes go through all runs
    # together.
    for index, item in enumerate(items):
        if not item.finished:
            run_one(item, partial(_running, on_change, index))
            on_change(index, item.state, None, item.message or "")


def _running(on_change: OnChange, index: int, row: Row) -> None:
    on_change(index, "running", row, "")


def _warm(todo: list[Item]) -> None:
    """Import and load in the parent what every child needs."""
    if any(item.config.tb for item in todo):
        tensorboard.load_tensorboard()
        columns.columns()
    for item in todo:
        build.scaling(item.config)
        for group in registry.KINDS:
            name = getattr(item.config, group)["name"]
            for member in name.split("+"):
                if (group, member) != ("activation", AUTO):
                    registry.find(group, member)
    machine.environment("cpu", 1)  # reads and digests the code, once for all
    machine.prepare(todo[0].config.threads)  # after loading: what that took is given back
