"""Finds settings that contradict each other or the data, as far as known without torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from normbench.errors import Mistake, counted
from normbench.parts import registry
from normbench.parts.options import leaves, written
from normbench.runtime import machine, storage
from normbench.settings import inputs
from normbench.settings.declared import default_parts, defaults
from normbench.settings.fields import AUTO

if TYPE_CHECKING:
    from normbench.data._base import DatasetInfo
    from normbench.settings.schema import Config

MOST = 100_000  # cells of a sweep, whatever max_cells says
# Settings that some parts, or other settings, make no use of.
IDLE = ("norm_batch", "blank_steps", "test_blank_steps", "lr_base_batch", "warmup_least")
TWO_WAYS = {  # what can be said by any of several settings
    "length": ("steps", "examples", "epochs"),
    "time between validations": ("eval_every_steps", "eval_every"),
}
# What changes no weight, but which runs there are.
SWEPT = {"seeds", "tune", "tune_lrs", "tune_seeds", "data.path"}
GRID = (0.03, 0.1, 0.3, 1.0, 3.0)  # learning rates that tuning tries, times that of the optimizer


def contradictions(tree: Mapping[str, Any], about: DatasetInfo) -> list[Mistake]:
    """List what in a cell cannot go together, as far as it can be known without torch."""
    return [
        *_batch_mistakes(tree, about),
        *_set_mistakes(tree),
        *_place_mistakes(tree),
        *_lanes_mistakes(tree),
        *_share_mistakes(tree),
        *_tune_mistakes(tree),
        *inputs.mistakes(tree, about),
    ]


def idle(tree: Mapping[str, Any]) -> dict[str, str]:
    """Find the settings of IDLE that make no difference in a cell, with the choice that says so."""
    chosen = {group: tree[group]["name"] for group in ("norm", "model", "schedule")}
    facts = {group: registry.facts(group, name).constants for group, name in chosen.items()}
    found = {}
    if not any(key.rpartition(".")[2] == "norm_batch" for key, _ in leaves(tree["norm"])):
        found["norm_batch"] = f"norm={chosen['norm']}"
    if not facts["model"]["recurrent"]:
        found |= dict.fromkeys(("blank_steps", "test_blank_steps"), f"model={chosen['model']}")
    if tree["lr_rule"] == "none":
        found["lr_base_batch"] = "lr_rule=none"
    if not facts["schedule"]["warms_up"]:
        found["warmup_least"] = f"schedule={chosen['schedule']}"
    return found


def _share_mistakes(tree: Mapping[str, Any]) -> Iterator[Mistake]:
    given = dict(leaves(tree["norm"]))
    for key, share in given.items():
        count = given.get(key.removesuffix("_share"))
        if key.endswith("_share") and share is not None and count is not None:
            name = f"norm.{key.removesuffix('_share')}={written(count)}"
            why = f"norm.{key}={share} of the run says it too"
            yield Mistake(name, why, f"{name} norm.{key}=null")


def grid_around(lr: float) -> list[float]:
    """List the learning rates that tuning tries where none are given."""
    return [float(f"{lr * factor:.6g}") for factor in GRID]


def _tune_mistakes(tree: Mapping[str, Any]) -> Iterator[Mistake]:
    lrs = tree["tune_lrs"]
    if tree["tune"] == "lr" and machine.rank_info() is not None:
        why = "needs a command that starts its workers itself, not torchrun"
        yield Mistake("tune=lr", why, f"normbench train tune=lr gpus={tree['gpus']}")
    if tree["seeds"] == AUTO and machine.rank_info() is not None:
        why = "needs a command that starts its workers itself, not torchrun"
        yield Mistake("seeds=auto", why, "seeds=1")
    if tree["tune"] == "none" or lrs is None:
        return
    rising = sorted(set(lrs))
    if len(rising) < 2:
        fix = written(grid_around((rising or [tree["optimizer"]["lr"]])[0]))
        why = "is not a grid: that takes two learning rates or more"
        yield Mistake(f"tune_lrs={written(lrs)}", why, f"tune_lrs={fix}")
    elif lrs != rising:
        why = "does not rise from each learning rate to the next"
        yield Mistake(f"tune_lrs={written(lrs)}", why, f"tune_lrs={written(rising)}")


def too_large(text: str) -> Mistake | None:
    """Say what is wrong with an override that a parser would be busy with for minutes, or ends at:
    its brackets nest too deep, or it lists more values than a sweep has cells."""
    deep, values = storage.nesting(text) > storage.DEPTH, text.count(",") + 1
    if not deep and values <= MOST:
        return None
    key, known = text.partition("=")[0], {**defaults(), **default_parts()}
    fix = shlex.quote(f"{key}={written(known[key])}" if key in known else "batch=2")
    if deep:
        fix += f"    (brackets in a value: at most {storage.DEPTH} deep)"
    many = f"has {values:,} values, and a sweep at most {MOST:,} cells"
    return Mistake(text, "is nested too deep" if deep else many, fix)


def too_many(configs: Sequence[Config]) -> Iterator[Mistake]:
    """Say so if a sweep has more runs than any may have."""
    seeds = [config.most_seeds for config in configs]
    if sum(seeds) > MOST:
        key = "seeds_max" if any(config.seeds == AUTO for config in configs) else "seeds"
        why = f"this sweep has {sum(seeds):,} runs, and a sweep at most {MOST:,}"
        yield Mistake(f"{key}={max(seeds)}", why, f"{key}={MOST // len(seeds)}")


def of_all_cells(choices: Sequence[Sequence[str]], configs: Sequence[Config]) -> Iterator[Mistake]:
    """Refuse lists of what changes no result: the runs of their cells would be the same.

    Args: choices: the `KEY=VALUE` texts of each override.
    """
    shared = [{key for key, _ in leaves(config.execution())} - SWEPT for config in configs]
    for texts in choices:
        key, _, first = texts[0].partition("=")
        if len(texts) > 1 and shared and all(key in keys for keys in shared):
            listed = ",".join(text.partition("=")[2] for text in texts)
            why = "makes no difference to the result of a run, so a sweep has one value of it"
            yield Mistake(f"{key}={listed}", why, f"{key}={first}")


def tuned_away(configs: Sequence[Config], keys: Sequence[str]) -> Iterator[Mistake]:
    """Refuse too large a tuning, and learning rates of which it would choose others.

    Args: keys: those of the command line.
    """
    tuned = [config for config in configs if config.tune == "lr"]
    rates = {config.name: (len(config.tune_lrs or ()), config.tune_seeds) for config in tuned}
    count, runs = sum(n for n, _ in rates.values()), sum(n * k for n, k in rates.values())
    if runs > MOST:
        why = f"the tuning has {runs:,} runs, and a sweep at most {MOST:,}"
        fix = f"tune_seeds={MOST // count}" if count <= MOST else "shorter lists"
        yield Mistake(f"tune_seeds={tuned[0].tune_seeds}", why, fix)
    lrs = sorted({config.optimizer["lr"] for config in tuned})
    if "optimizer.lr" not in keys or not tuned:
        return
    why = "tune=lr chooses it, for each configuration"
    if len(lrs) > 1:
        subject = f"optimizer.lr={','.join(map(str, lrs))}"
        yield Mistake(subject, why, f"tune_lrs={written(lrs)}")
    elif len(tuned) == len(configs) and "tune_lrs" in keys:
        fix = f"tune_lrs={written(tuned[0].tune_lrs)} alone"
        yield Mistake(f"optimizer.lr={lrs[0]:g}", why, fix)


def _batch_mistakes(tree: Mapping[str, Any], about: DatasetInfo) -> Iterator[Mistake]:
    batch, gpus, images = tree["batch"], tree["gpus"], about.sizes[0]
    place = machine.rank_info()
    if place is not None and place.workers != gpus:
        why = f"torchrun has started {counted(place.workers, 'worker')}"
        yield Mistake(f"gpus={gpus}", why, f"gpus={place.workers}")
    if batch > images:
        why = f"is more than the {images} training images of {about.label}"
        yield Mistake(f"batch={batch}", why, f"batch={images}")
    port = tree["dist"]["port"]
    if port is not None and (gpus == 1 or place is not None):
        why = "torchrun tells where workers meet" if place else "gpus=1 has no workers that meet"
        yield Mistake(f"dist.port={port}", why, "dist.port=null")
    shares = gpus * tree["accumulate"]
    if batch % shares:
        over = f"gpus={gpus} workers" if gpus > 1 else f"accumulate={shares} micro-batches"
        works = sorted({max(1, batch // shares) * shares, (batch // shares + 1) * shares})
        fix = " or ".join(f"batch={size}" for size in works)
        yield Mistake(f"batch={batch}", f"does not divide over {over}", fix)


def _set_mistakes(tree: Mapping[str, Any]) -> Iterator[Mistake]:
    """List what is wrong with the samples behind a batch statistic."""
    norm, gpus, asked = tree["norm"], tree["gpus"], tree["norm_batch"]
    taken = [item for item in leaves(norm) if item[0].rpartition(".")[2] == "norm_batch"]
    if asked != "worker" and not taken:
        why = f"norm={norm['name']} takes no statistics over other sets of samples"
        yield Mistake(f"norm_batch={asked}", why, "norm_batch=worker")
    share = max(1, tree["batch"] // (gpus * tree["accumulate"]))
    sizes = [*_divisors(share), *(share * count for count in _divisors(gpus))]
    for key, size in taken:
        if isinstance(size, int) and size not in sizes:
            name = "norm_batch" if size == asked else f"norm.{key}"
            workers = f"{counted(gpus, 'worker')} with {counted(share, 'example')}"
            # One example is too little for a statistic of a dense layer.
            near = min(sizes, key=lambda one: (one == 1 < share, abs(one - size)))
            yield Mistake(f"{name}={size}", f"cannot be made up from {workers}", f"{name}={near}")


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _place_mistakes(tree: Mapping[str, Any]) -> Iterator[Mistake]:
    norm, model = tree["norm"]["name"], tree["model"]["name"]
    facts = registry.facts("norm", norm).constants
    place, activation = tree["placement"], tree["activation"]["name"]
    if place not in ("auto", *facts["places"]):
        why = f"norm={norm} has no such place (it has {', '.join(facts['places'])})"
        yield Mistake(f"placement={place}", why, f"placement={facts['places'][0]}")
    elif place == "preact" and not registry.facts("model", model).constants["residual"]:
        why = f"model={model} has no residual blocks for it"
        yield Mistake("placement=preact", why, "placement=pre")
    usual = registry.facts("model", model).constants["activation"]
    if facts["own_activation"] and activation not in (AUTO, facts["brings"]):
        why = f"norm={norm} is its own activation"
        yield Mistake(f"activation={activation}", why, "activation=auto")
    elif facts["own_activation"] and activation == AUTO and usual != facts["brings"]:
        why = f"is its own activation, and model={model} needs {usual}"
        yield Mistake(f"norm={norm}", why, "norm=ln")


def _lanes_mistakes(tree: Mapping[str, Any]) -> Iterator[Mistake]:
    if not isinstance(tree["lanes"], int) or tree["lanes"] == 1:
        return
    name = f"lanes={tree['lanes']}"
    if tree["gpus"] > 1:
        why = f"gpus={tree['gpus']} trains each run in several processes, not several runs in one"
        yield Mistake(name, why, "lanes=auto")
    elif tree["capture"] == "off":
        yield Mistake(name, "capture=off records no steps that could be made together", "lanes=1")


def said_twice(given: Mapping[str, str]) -> list[Mistake]:
    """Refuse what is given in two ways, by the texts of the overrides."""
    found = []
    for what, keys in TWO_WAYS.items():
        said = [f"{key}={given[key]}" for key in keys if given.get(key, "null") != "null"]
        why = f"the {what} is given twice, {''.join(said[:1])} says it too"
        found += [Mistake(other, why, f"{said[0]} alone") for other in said[1:]]
    return found
