"""Many runs: do their parts fit, train what is left, and compare what came of them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench import __version__
from normbench.errors import Mistake, Refused
from normbench.parts import registry
from normbench.parts.options import leaves, written
from normbench.results import lr_search, tables, time_to_target
from normbench.results.tables import Result
from normbench.rows import Row
from normbench.runs.directory import read_status
from normbench.runtime import storage
from normbench.settings.schema import Config
from normbench.sweeps.plan import TUNE_SEED, Item, Sweep

if TYPE_CHECKING:
    from normbench.display.progress import Screen

AGAIN = "(force=true trains again)"
LR = "optimizer.lr"
Read = tuple[Sequence[Result], Sequence[lr_search.Grid]]


def check(sweep: Sweep) -> list[Mistake]:
    """Build the model of every unfinished cell without memory, to see whether its parts fit.

    With `skip_invalid` the runs that do not fit move to `skipped`.
    Returns: what the parts warn of, each warning once.
    Raises: Refused with all misfits.
    """
    left = {row.config.name: row.config for row in sweep.rows if row.left}
    if not left:
        return []
    from normbench.runs import build

    mistakes: dict[Mistake, None] = {}
    warnings: dict[Mistake, None] = {}
    misfits: dict[str, Refused] = {}
    for name, each in left.items():
        error, warned = build.check(each, each.shape, each.classes)
        warnings.update(dict.fromkeys(warned))
        if error and each.skip_invalid:
            misfits[name] = error
        elif error:
            mistakes.update(dict.fromkeys(error.mistakes))
    sweep.skip(misfits)
    if not sweep.rows:  # nothing applies, so there is nothing to leave out
        mistakes.update((mistake, None) for cell in sweep.skipped for mistake in cell.misfits)
    if mistakes:
        raise Refused(*mistakes)
    return list(warnings)


def single(item: Item, screen: Screen) -> None:
    """Train one run in this process, with its heading, progress and result."""
    if not item.finished:
        from normbench.runs.run import run

        screen.heading(heading(item.config, 1))
        with screen.progress(item.config.steps or 0) as progress:
            item.state = run(item.config, progress.row)
    else:
        screen.heading([f"{item.state} already: {item.config.directory} {AGAIN}"])


def many(sweep: Sweep, screen: Screen) -> None:
    """Train what is left of several runs in a pool of children, with a live table."""
    items = sweep.items
    done = sum(item.finished for item in items)
    lines = [f"plan: {len(items)} runs" + (f", {done} finished already {AGAIN}" if done else "")]
    if sweep.seeds_only:
        lines = [*heading(items[0].config, len(items)), *(lines if done else [])]
    if sweep.skipped:
        lines.append(
            f"cells that do not apply: {len(sweep.skipped)}, the reasons stand below the table"
        )
    screen.heading(lines)
    _train(items, labels(items), screen)


def choose(sweep: Sweep, screen: Screen) -> None:
    """Train the tuning runs in a pool of children until every learning rate is chosen.

    A grid whose best learning rate is at its end is extended and trained on, in further rounds.
    """
    shown: set[int] = set()
    while items := [item for item in sweep.tuning_items if id(item) not in shown]:
        done = sum(item.finished for item in items)
        line = f"tuning: {len(items)} runs" + (f", {done} finished already {AGAIN}" if done else "")
        if shown:
            wider = sum(tuning.open for tuning in sweep.tunings)
            line += f" more: the best lr is at the end of {wider} grid{'s' * (wider > 1)}"
        alone = not shown and len(sweep.tunings) == 1
        screen.heading([*heading(items[0].config, 1)[:alone], line])
        fixed = (LR, TUNE_SEED)
        varied = tables.swept([item.settings for item in sweep.tuning_items])
        keys = [key for key in varied if key not in fixed]
        names = tables.labels([item.settings for item in items], [*keys, *fixed])
        _train(items, names, screen)
        shown |= set(map(id, items))
        sweep.settle()


def _train(items: list[Item], names: Sequence[str], screen: Screen) -> None:
    """Train what is left of some runs with a live table."""
    if all(item.finished for item in items):
        return
    from normbench.sweeps import scheduler

    with screen.sweep(names, [item.config.steps or 0 for item in items]) as live:
        for index, item in enumerate(items):
            if item.finished:
                live.cell(index, item.state, _last(item), "finished already")
        scheduler.work(items, live.cell)


def conclude(sweep: Sweep, screen: Screen, multirun: bool) -> None:
    """Show what came of the runs and of the tuning before them, and write a sweep's folder."""
    sweep.catch_up()
    found, grids = [item.result() for item in sweep.items], _grids(sweep)
    more = {"tuning": [lr_search.document(grid) for grid in grids]} if grids else {}
    screen.document({"command": "train", "runs": _runs(sweep, found), **more})
    everything = [*found, *_further(sweep, found), *_not_tuned(sweep), *_not_applying(sweep)]
    keys = _keys([result.settings for result in everything], sweep)
    if multirun:
        metrics = ("test/accuracy", *tables.further(found))
        shown = [tables.table(everything, keys, metric) for metric in metrics]
        shown += [times] if (times := time_to_target.table(found, keys)) else []
    else:
        shown = [time_to_target.beneath(tables.seeds(found), found)] if found else []
    if grids:
        shown = [lr_search.table(grids), *shown]
    if multirun or grids:
        text = "\n".join(map(tables.markdown, shown))
        screen.note(f"sweep {write(sweep, (found, grids), keys, text)}")
    for place, table in enumerate(shown):
        screen.lines([""] * (place > 0))
        screen.table(table)
    screen.note(f"tensorboard --logdir {sweep.outputs / 'runs'}")


def _further(sweep: Sweep, found: Sequence[Result]) -> list[Result]:
    """The same results once more for further cells that came to the same runs."""
    return [
        replace(result, settings=settings)
        for item, result in zip(sweep.items, found, strict=True)
        for settings in item.also
    ]


def _keys(settings: Sequence[tables.Settings], sweep: Sweep) -> list[str]:
    """The keys that vary; a learning rate that was chosen is none of them."""
    return [key for key in tables.swept(settings) if not sweep.tunings or key != LR]


def _grids(sweep: Sweep) -> list[lr_search.Grid]:
    """The grid of learning rates of each configuration, named by what varies."""
    tunings = sweep.tunings
    settings = [tuning.settings for tuning in tunings]
    keys = _keys(settings, sweep)
    names = tables.labels(settings, keys) if keys else []
    if not keys:
        names = [f"{each.config.model['name']}  {each.config.norm['name']}" for each in tunings]
    return [tuning.grid(name) for tuning, name in zip(tunings, names, strict=True)]


def write(sweep: Sweep, read: Read, keys: Sequence[str], table: str) -> Path:
    """Write `sweep.json`, `results.csv` and `table.md`, with `tune=lr` also `tune.csv`.

    The same command finds the folder again.

    Args: read: what has been read of the runs, and of the tuning before them.
    """
    found, grids = read
    trials = [each for grid in grids for each in itertools.chain(*grid.runs.values())]
    states = {result.name: result.state for result in [*found, *trials]}
    short = hashlib.sha256(json.dumps(sorted(states)).encode()).hexdigest()[:8]
    usual = "tune" if grids else "seed"
    folder = sweep.outputs / "sweeps" / f"{'-'.join(keys) or usual}-{short}"
    storage.make_directory(folder)
    document = {
        "schema": 1,
        "keys": list(keys),
        "cells": [{"run": name, "state": states[name]} for name in sorted(states)],
    }
    storage.write_atomic(folder / "sweep.json", json.dumps(document, indent=1) + "\n")
    columns = [*keys, LR] if grids else keys
    storage.write_atomic(folder / "results.csv", tables.csv(found, columns))
    if grids:
        storage.write_atomic(folder / "tune.csv", lr_search.csv(grids, keys))
    storage.write_atomic(folder / "table.md", table)
    return folder


def _not_tuned(sweep: Sweep) -> list[Result]:
    """The cells without a learning rate, for the table: a run of their tuning failed or is open."""
    found = []
    for row in sweep.rows:
        if row.runs is None and row.tuning:
            failures = row.tuning.grid().failures
            message = f"tuning: {failures[0]}" if failures else None
            state = "failed" if failures else "planned"
            found.append(Result("", row.settings, state, message=message))
    return found


def _not_applying(sweep: Sweep) -> list[Result]:
    """The cells that were left out, for the table."""
    return [
        Result(
            directory="",
            settings=dict(text.split("=", 1) for text in cell.row),
            state="does not apply",
            message="; ".join(f"{each.subject}: {each.why}" for each in cell.misfits),
        )
        for cell in sweep.skipped
    ]


def _last(item: Item) -> Row:
    """What a finished run came to, as a row for the screen."""
    final = (read_status(item.config.directory) or {}).get("final") or {}
    return Row("test", item.config.steps or 0, 0, 0, final)


def heading(config: Config, seeds: int) -> list[str]:
    """Say what is trained: parts, batch and its statistics, learning rate, folder."""
    sizes = "/".join(map(str, config.sizes))
    parts = [_part(config, group) for group in ("model", "norm", "init")]
    first = [*parts, f"{config.label} {sizes}", f"{config.device} {config.precision}"]
    over = f"{config.stat_batch} example{'s' * (config.stat_batch > 1)}"
    batched = "" if _uses_batch(config) else " (no batch)"
    ratio = f"{config.batch}/{config.lr_base_batch}"
    rule = f"{config.optimizer['lr']:g} x {ratio}" if config.lr_rule != "none" else ""
    second = [
        f"batch {config.batch} = {config.gpus} worker{'s' * (config.gpus > 1)} x "
        f"{config.batch // config.gpus}",
        f"statistics over {over}{batched}",
        f"lr {config.lr:g}" + f" = {rule}" * bool(rule) + f" (lr_rule={config.lr_rule})",
    ]
    for key, usual in (("eval_stats", "running"), ("inputs", "standardized"), ("mix", "none")):
        if getattr(config, key) != usual:
            second.append(f"{key}={getattr(config, key)}")
    if config.target is not None:
        second.append(f"ends at val {100 * config.target:.10g} %")
    if seeds > 1:
        second.append(f"{seeds} seeds")
    return [
        f"normbench {__version__}  " + " | ".join(first),
        "   ".join(second),
        str(config.directory if seeds == 1 else config.directory.parent),
    ]


def labels(items: Sequence[Item]) -> list[str]:
    """Name each of several runs by what varies."""
    settings = [item.settings for item in items]
    several = len({each.get("seed") for each in settings}) > 1
    keys = tables.swept(settings)
    return tables.labels(settings, [*keys, "seed"] if several or not keys else keys)


def plan_lines(sweep: Sweep) -> list[str]:
    """List what a command would do."""
    lines = [
        f"{'finished already' if item.finished else 'to train':<17} {item.config.directory}"
        f"   {label}   steps {item.config.steps}   lr {item.config.lr:g}"
        f"   statistics over {item.config.stat_batch}"
        for item, label in zip(sweep.items, labels(sweep.items), strict=True)
    ]
    left = sum(not item.finished for item in sweep.items)
    count = f"plan: {len(sweep.items)} runs, {left} to train"
    skipped = [f"{each.state:<17} {each.message}" for each in _not_applying(sweep)]
    return [*_tuning_lines(sweep), count, *lines, *skipped]


def _tuning_lines(sweep: Sweep) -> list[str]:
    """List the grids of learning rates, and what their runs are at most."""
    if not sweep.tunings:
        return []
    items = sweep.tuning_items
    left = sum(not item.finished for item in items)
    more = sum(tuning.steps_left * tuning.config.tune_seeds for tuning in sweep.tunings)
    later = sum(row.config.seeds for row in sweep.rows if row.runs is None)
    lines = [
        f"tuning: {len(items)} runs, {left} to train"
        + (f", at most {more} more where the best lr is at an end" if more else "")
        + (f"; then at most {later} runs with the chosen lr" if later else "")
    ]
    grids = _grids(sweep)
    width = max(len(grid.name) for grid in grids)
    for tuning, grid in zip(sweep.tunings, grids, strict=True):
        lrs = " ".join(f"{lr:g}" for lr in grid.runs)
        seeds = f"{tuning.config.tune_seeds} tuning seed{'s' * (tuning.config.tune_seeds > 1)}"
        chosen = f"lr {grid.choice.lr:g} is chosen" if grid.choice else "to tune"
        words = [f"{chosen:<17} {grid.name:<{width}}", f"lr {lrs}", seeds]
        lines.append("   ".join([*words, f"steps {tuning.config.steps}"]))
    return lines


def _runs(sweep: Sweep, found: Sequence[Result]) -> list[dict[str, Any]]:
    """One entry per configuration with all its seeds."""
    documents = tables.runs(found)
    configs = {str(item.config.directory.parent): item.config for item in sweep.items}
    grouped: dict[str, list[Result]] = {folder: [] for folder in configs}
    for result in found:
        grouped[str(Path(result.directory).parent)].append(result)
    derived = {
        folder: {"config": configs[folder].experiment(), "target": time_to_target.document(each)}
        for folder, each in grouped.items()
    }
    return [{**document, **derived[str(document["dir"])]} for document in documents]


def _part(config: Config, group: str) -> str:
    """A part with the options that differ from their defaults: `gn(groups=4)`."""
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
