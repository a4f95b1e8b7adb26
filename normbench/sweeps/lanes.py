"""Which runs of a sweep train together in one process, and which go first. No torch."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from normbench.errors import Mistake
from normbench.parts import registry
from normbench.settings.declared import GROUPS
from normbench.settings.fields import AUTO
from normbench.settings.schema import Config

# Up to which batch LANES runs gain by being trained together, by model and norm, as measured on one
# core in float32 with the models' own sizes and images of PIXELS values (docs/performance.md).
MEASURED: dict[str, dict[str, int]] = {
    "cnn": {"none": 2, "bn": 4, "gn": 4, "ln": 4, "frn": 4, "brn": 8, "wn": 8},
    "mlp": {"none": 2, "bn": 4, "gn": 4, "frn": 4, "brn": 8},
}
LANES = 8  # runs that `lanes=auto` trains together at most; more fall out of the cache
LEAST = 4  # runs that gain by it; fewer are trained one by one
STEPS = 500  # from which on most win back what it takes to find out how they step together
PIXELS = 28 * 28
# In what runs may differ that make the same steps.
FREE = ("seed", "lr_rule", "lr_base_batch", "warmup", "warmup_least", "schedule")
EVEN = 1.15  # times the mean that the busiest core may have to do before a group is cut
Place = tuple[str, int]  # model and batch, at which the costs of norms are compared


def gaining(configs: Iterable[Config]) -> set[Place]:
    """Find at which model and batch `lanes=auto` trains runs of a sweep together.

    All do so or none: the seconds of one that shared its process are not those of one that did not.
    """
    gains: dict[Place, bool] = {}
    for config in configs:
        gains[_place(config)] = gains.get(_place(config), True) and _gains(config)
    return {place for place, all_gain in gains.items() if all_gain}


def _place(config: Config) -> Place:
    return config.model["name"], config.batch


def _gains(config: Config) -> bool:
    """Tell whether a run is like those that have been measured to gain."""
    model, options = config.model, registry.facts("model", config.model["name"]).options
    usual = all(model[name] == option.default for name, option in options.items())
    here = (config.device, config.threads, config.precision) == ("cpu", 1, "fp32")
    long = (config.steps or 0) >= STEPS and math.prod(config.shape) <= PIXELS
    batch = MEASURED.get(model["name"], {}).get(config.norm["name"], 0)
    replayed = config.capture != "off" and not why_alone(config)
    return usual and here and long and replayed and config.batch <= batch


def most(config: Config, gaining: Collection[Place]) -> int:
    """Say how many runs like this one are trained together."""
    if why_alone(config):
        return 1
    if isinstance(config.lanes, int):
        return config.lanes
    return LANES if _place(config) in gaining else 1


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
    configs: Mapping[int, Config],
    lengths: Mapping[int, float],
    slots: int,
    together: Collection[Place],
) -> list[list[int]]:
    """Put runs into groups that are trained together, the longest first.

    Args: configs: of the runs by number; lengths: how long each takes; slots: groups that are
        trained at a time; together: where `lanes=auto` gains, as `gaining` finds it.
    """
    while True:
        found = _balanced(configs, lengths, slots, together)
        alone = {_place(configs[group[0]]) for group in found if len(group) == 1}
        if not alone.intersection(together):
            return found
        together = {*together} - alone


def _balanced(
    configs: Mapping[int, Config],
    lengths: Mapping[int, float],
    slots: int,
    together: Collection[Place],
) -> list[list[int]]:
    """Put runs into groups; those of `lanes=auto` are cut in two as long as slots would be idle.

    That is, as long as it makes the busiest of the slots much less so.
    """
    sizes = {number: most(config, together) for number, config in configs.items()}
    kinds: defaultdict[str, list[int]] = defaultdict(list)
    for number, config in configs.items():
        kinds[alike(config) if sizes[number] > 1 else str(number)].append(number)
    found = [p for kind in kinds.values() for p in _cut(kind, configs[kind[0]], sizes[kind[0]])]
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


def _cut(group: list[int], config: Config, size: int) -> list[list[int]]:
    """Cut a group into parts of about equal size, at most `size`."""
    parts = -(-len(group) // size)
    if config.lanes == AUTO and len(group) < LEAST * parts:
        parts = len(group)
    bounds = [len(group) * part // parts for part in range(parts + 1)]
    return [group[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False)]
