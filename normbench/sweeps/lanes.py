"""Which runs of a sweep train together in one process, and which go first. No torch."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from normbench.errors import Mistake
from normbench.parts import registry
from normbench.settings.declared import GROUPS
from normbench.settings.fields import AUTO
from normbench.settings.schema import Config

# How many runs are trained together by `lanes=auto`, by model and norm: up to which batch, and how
# many, on one core in float32. None yet: docs/performance.md has what wins, but where some norms of
# a sweep win and others do not, their times would no longer compare.
MEASURED: dict[tuple[str, str], tuple[tuple[int, int], ...]] = {}
LEAST = 4  # runs that gain by `lanes=auto`; fewer are trained one by one
# In what runs may differ that make the same steps.
FREE = ("seed", "lr_rule", "lr_base_batch", "warmup", "warmup_least", "schedule")
EVEN = 1.15  # times the mean that the busiest core may have to do before a group is cut


def most(config: Config) -> int:
    """Say how many runs like this one are trained together."""
    if why_alone(config):
        return 1
    if isinstance(config.lanes, int):
        return config.lanes
    here = config.device, config.threads, config.precision
    if here != ("cpu", 1, "fp32") or config.capture == "off":
        return 1  # not measured
    sizes = MEASURED.get((config.model["name"], config.norm["name"]), ())
    return next((count for batch, count in sizes if config.batch <= batch), 1)


def why_alone(config: Config) -> str:
    """Say why a run is never trained with others, or nothing.

    Parts of other packages may keep something in their process that runs would share.
    """
    if config.gpus > 1:
        return f"gpus={config.gpus}"
    for group in GROUPS:
        for name in getattr(config, group)["name"].split("+"):
            if name == "torchvision" or registry.is_foreign(group, name):
                return f"{group}={name}"
    return ""


def one_by_one(configs: Iterable[Config]) -> Iterator[Mistake]:
    """Warn of runs that are never trained with others although `lanes` asks for it."""
    for config in configs:
        why = why_alone(config)
        if why and config.lanes not in (AUTO, 1):
            yield Mistake(f"lanes={config.lanes}", f"runs of {why} train one by one", "lanes=auto")


def alike(config: Config) -> str:
    """Name what runs must have in common to be trained together."""
    tree = {key: value for key, value in config.plain().items() if key not in FREE}
    options = config.optimizer.items()
    tree["optimizer"] = {key: None if type(value) is float else value for key, value in options}
    return json.dumps([tree, config.other_threads, config.tuning])


def groups(
    configs: Mapping[int, Config], lengths: Mapping[int, float], slots: int
) -> list[list[int]]:
    """Put runs into groups that are trained together, the longest first.

    Groups of `lanes=auto` are cut in two as long as that makes the busiest of the `slots`, which
    work at a time, much less so.

    Args: configs: of the runs by number; lengths: how long each takes.
    """
    kinds: defaultdict[str, list[int]] = defaultdict(list)
    for number, config in configs.items():
        kinds[alike(config) if most(config) > 1 else str(number)].append(number)
    found = [part for kind in kinds.values() for part in _cut(kind, configs[kind[0]])]
    while True:
        found.sort(key=lambda group: -_work(group, lengths))
        busiest = _busiest(found, lengths, slots)
        mean = sum(lengths.values()) / slots
        free = [g for g in busiest if len(g) > 1 and configs[g[0]].lanes == AUTO]
        if not free or sum(_work(group, lengths) for group in busiest) <= EVEN * mean:
            return found
        found.remove(free[0])
        found += _cut(free[0], configs[free[0][0]], -(-len(free[0]) // 2))


def _work(group: Sequence[int], lengths: Mapping[int, float]) -> float:
    return sum(lengths[number] for number in group)


def _busiest(
    found: Sequence[list[int]], lengths: Mapping[int, float], slots: int
) -> list[list[int]]:
    """Give the groups of that slot which has most to do, where each takes the next when free."""
    loads: list[tuple[float, list[list[int]]]] = [(0.0, []) for _ in range(slots)]
    for group in found:
        least = min(range(slots), key=lambda slot: loads[slot][0])
        load, taken = loads[least]
        taken.append(group)
        loads[least] = load + _work(group, lengths), taken
    return max(loads, key=lambda load: load[0])[1]


def _cut(group: list[int], config: Config, size: int | None = None) -> list[list[int]]:
    """Cut a group into parts of about equal size, at most `size` or as many as train together."""
    parts = -(-len(group) // (size or most(config)))
    if config.lanes == AUTO and len(group) < LEAST * parts:
        parts = len(group)
    bounds = [len(group) * part // parts for part in range(parts + 1)]
    return [group[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False)]
