"""Says what a command trains: the heading of a run, the names of runs, the plan. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from normbench import __version__
from normbench.errors import Mistake, counted
from normbench.parts import registry
from normbench.parts.options import leaves, written
from normbench.results import groups
from normbench.results.groups import Result, Settings
from normbench.results.lr_search import LRSearch
from normbench.settings.fields import AUTO
from normbench.settings.schema import Config
from normbench.sweeps import rounds
from normbench.sweeps.items import LR, Item
from normbench.sweeps.plan import Sweep

USUAL = {"eval_stats": "running", "inputs": "standardized", "mix": "none"}  # not worth a word


def unpaired(configs: Iterable[Config]) -> Iterator[Mistake]:
    """Warn of norms whose own activation lets a seed start from other weights than others have.

    An initializer that takes the gain of the activation draws the same numbers times another one.
    """
    starts: dict[tuple[str, str], dict[tuple[str, float], str]] = {}
    for config in configs:
        act = config.activation["name"]
        if act != AUTO and config.init.get("gain", 0) is None:
            gain = registry.facts("activation", act).constants["gain"]
            beside = starts.setdefault((config.model["name"], config.init["name"]), {})
            beside.setdefault((act, gain), config.norm["name"])
    for (_, init), found in starts.items():
        for (act, gain), norm in found.items():
            others = [(other, name) for (_, other), name in found.items() if other != gain]
            brings = registry.facts("norm", norm).constants["brings"]
            if others and brings == act != "relu":
                ratio, beside_it = gain / others[0][0], others[0][1]
                why = (
                    f"brings activation={act}: with init={init} its first weights are {ratio:.3g} "
                    f"times those of norm={beside_it} with the same seed"
                )
                yield Mistake(f"norm={norm}", why, f"activation={act} or init.gain=1 for all")


def heading(config: Config, seeds: int) -> list[str]:
    """Say what is trained: parts, batch and its statistics, learning rate, folder."""
    sizes = "/".join(map(str, config.sizes))
    parts = [_part(config, group) for group in ("model", "norm", "init")]
    first = [*parts, f"{config.label} {sizes}", f"{config.device} {config.precision}"]
    batched = "" if _uses_batch(config) else " (no batch)"
    ratio = f"{config.batch}/{config.lr_base_batch}"
    rule = f" = {config.optimizer['lr']:g} x {ratio}" if config.lr_rule != "none" else ""
    second = [
        f"batch {config.batch} = {counted(config.gpus, 'worker')} x {config.batch // config.gpus}",
        f"statistics over {counted(config.stat_batch, 'example')}{batched}",
        f"lr {config.lr:g}{rule} (lr_rule={config.lr_rule})",
    ]
    second += _momentum(config)
    for key, usual in USUAL.items():
        if getattr(config, key) != usual:
            second.append(f"{key}={getattr(config, key)}")
    if config.target is not None:
        second.append(f"ends at val {100 * config.target:.10g} %")
    if seeds > 1:
        second.append(counted(seeds, "seed"))
    return [
        f"normbench {__version__}  " + " | ".join(first),
        "   ".join(second),
        str(config.directory if seeds == 1 else config.directory.parent),
    ]


def _momentum(config: Config) -> list[str]:
    """Say what the momentum of running statistics counts for, where a step has micro-batches."""
    running = registry.facts("norm", config.norm["name"]).constants["running"]
    options = dict(leaves(config.norm)) if running and config.accumulate > 1 else {}
    span = {"step": f"step of {config.accumulate} micro-batches", "forward": "micro-batch"}
    return [
        f"norm.{key}={written(options[key])} per {span[options[f'{key}_per']]}"
        for key in options
        if f"{key}_per" in options
    ]


def labels(items: Sequence[Item]) -> list[str]:
    """Name each of several runs by what varies."""
    settings = [item.settings for item in items]
    several = len({cell.get("seed") for cell in settings}) > 1
    keys = groups.swept(settings)
    return groups.labels(settings, [*keys, "seed"] if several or not keys else keys)


def plan_lines(sweep: Sweep) -> list[str]:
    """List what a command would do."""
    lines = [
        f"{_left(item):<17} {item.config.directory}"
        f"   {label}   steps {item.config.steps}   lr {item.config.lr:g}"
        f"   statistics over {item.config.stat_batch}"
        for item, label in zip(sweep.items, labels(sweep.items), strict=True)
    ]
    left = sum(not item.trained for item in sweep.items)
    more = sum(len(item.missing) for item in sweep.items)
    count = f"plan: {counted(len(sweep.items), 'run')}, {left} to train"
    count += f", {counted(more, 'evaluation')} of their weights" if more else ""
    count += further_seeds(sweep)
    skipped = [f"{cell.state:<17} {cell.message}" for cell in not_applying(sweep)]
    return [*_tuning_lines(sweep), count, *lines, *skipped]


def further_seeds(sweep: Sweep) -> str:
    """Say what `seeds=auto` may still take."""
    left = rounds.at_most(sweep.cells)
    return f"; at most {counted(left, 'run')} more until each pair is decided" if left else ""


def varying(settings: Sequence[Settings], sweep: Sweep) -> list[str]:
    """List the keys that vary; a learning rate that was chosen is none of them."""
    return [key for key in groups.swept(settings) if not sweep.tunings or key != LR]


def searches(sweep: Sweep) -> list[LRSearch]:
    """Read the learning-rate search of each configuration, named by what varies."""
    settings = [tuning.settings for tuning in sweep.tunings]
    keys = varying(settings, sweep)
    names = groups.labels(settings, keys) if keys else []
    if not keys:
        configs = [tuning.config for tuning in sweep.tunings]
        names = [f"{config.model['name']}  {config.norm['name']}" for config in configs]
    return [tuning.search(name) for tuning, name in zip(sweep.tunings, names, strict=True)]


def _left(item: Item) -> str:
    """Say what is left to do for a run."""
    if item.finished:
        return "finished already"
    return f"to judge {len(item.missing)} x" if item.trained else "to train"


def not_applying(sweep: Sweep) -> list[Result]:
    """Give the cells that were left out as results, for the table."""
    return [
        Result(
            directory="",
            settings=dict(text.split("=", 1) for text in cell.row),
            state="does not apply",
            message="; ".join(f"{mistake.subject}: {mistake.why}" for mistake in cell.misfits),
        )
        for cell in sweep.skipped
    ]


def _tuning_lines(sweep: Sweep) -> list[str]:
    """List the grids of learning rates, and what their runs are at most."""
    if not sweep.tunings:
        return []
    items = sweep.tuning_items
    left = sum(not item.trained for item in items)
    more = sum(tuning.steps_left * tuning.config.tune_seeds for tuning in sweep.tunings)
    later = sum(planned.config.most_seeds for planned in sweep.cells if planned.runs is None)
    lines = [
        f"tuning: {counted(len(items), 'run')}, {left} to train"
        + (f", at most {more} more where the best lr is at an end" if more else "")
        + (f"; then at most {counted(later, 'run')} with the chosen lr" if later else "")
    ]
    found = searches(sweep)
    width = max(len(search.name) for search in found)
    for tuning, search in zip(sweep.tunings, found, strict=True):
        lrs = " ".join(f"{lr:g}" for lr in search.runs)
        chosen = f"lr {search.choice.lr:g} is chosen" if search.choice else "to tune"
        words = [f"{chosen:<17} {search.name:<{width}}", f"lr {lrs}"]
        words += [counted(tuning.config.tune_seeds, "tuning seed"), f"steps {tuning.config.steps}"]
        lines.append("   ".join(words))
    return lines


def _part(config: Config, group: str) -> str:
    """Say a part with the options that differ from their defaults: `gn(groups=4)`."""
    options = getattr(config, group)
    declared = registry.facts(group, options["name"]).options
    changed = [
        f"{key}={written(value)}"
        for key, value in leaves(options)
        if key in declared and value != declared[key].default
    ]
    return str(options["name"]) + (f"({', '.join(changed)})" if changed else "")


def _uses_batch(config: Config) -> bool:
    return bool(registry.facts("norm", config.norm["name"]).constants["uses_batch"])
