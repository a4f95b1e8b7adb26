"""Many runs: do their parts fit, train what is left, and compare what came of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench import __version__, config, files, registry, report
from normbench.config import Config
from normbench.errors import Mistake, Refused
from normbench.options import written
from normbench.plan import Item, Sweep
from normbench.record import read_status
from normbench.report import Result
from normbench.rows import Row

if TYPE_CHECKING:
    from normbench.screen import Screen

AGAIN = "(force=true trains again)"


def check(sweep: Sweep) -> list[Mistake]:
    """Build the model of every unfinished run without memory, to see whether its parts fit.

    With `skip_invalid` the runs that do not fit move to `skipped`.
    Returns: what the parts warn of, each warning once.
    Raises: Refused with all misfits.
    """
    if not sweep.todo:
        return []
    from normbench import build

    seen: dict[str, build.Checked] = {}
    mistakes: dict[Mistake, None] = {}
    warnings: dict[Mistake, None] = {}
    for item in sweep.todo:
        if item.config.name not in seen:
            about = config.data_about({"data": item.config.data})
            seen[item.config.name] = build.check(item.config, about.shape, about.classes)
        error, warned = seen[item.config.name]
        warnings.update(dict.fromkeys(warned))
        if error and item.config.skip_invalid:
            sweep.skip(item, error)
        elif error:
            mistakes.update(dict.fromkeys(error.mistakes))
    if not sweep.items:  # nothing applies, so there is nothing to leave out
        mistakes.update((mistake, None) for cell in sweep.skipped for mistake in cell.misfits)
    if mistakes:
        raise Refused(*mistakes)
    return list(warnings)


def single(item: Item, screen: Screen) -> None:
    """Train one run in this process, with its heading, progress and result."""
    if not item.finished:
        from normbench.run import run

        screen.heading(heading(item.config, 1))
        with screen.progress(item.config.steps or 0) as progress:
            item.state = run(item.config, progress.row).state
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
    if not sweep.todo:
        return
    from normbench import pool

    with screen.sweep(labels(sweep), [item.config.steps or 0 for item in items]) as live:
        for index, item in enumerate(items):
            if item.finished:
                live.cell(index, item.state, _last(item), "finished already")

        def tell(index: int, state: str, row: Row | None, note: str) -> None:
            live.cell(index, state, row, note)

        pool.work(items, tell)


def conclude(sweep: Sweep, screen: Screen, multirun: bool) -> None:
    """Show what came of the runs, and write a sweep's folder."""
    found = results(sweep)
    screen.document({"command": "train", "runs": _runs(sweep, found)})
    if not multirun:
        screen.table(report.seeds(found))
    else:
        everything = [*found, *_not_applying(sweep)]
        keys = report.swept([result.settings for result in everything])
        table = report.table(everything, keys)
        folder = write(sweep, found, keys, report.markdown(table))
        screen.note(f"sweep {folder}")
        screen.table(table)
    screen.note(f"tensorboard --logdir {Path(sweep.items[0].config.outputs) / 'runs'}")


def write(sweep: Sweep, found: Sequence[Result], keys: Sequence[str], table: str) -> Path:
    """Write `sweep.json`, `results.csv` and `table.md`; the same command finds the folder again."""
    runs = sorted(result.name for result in found)
    short = hashlib.sha256(json.dumps(runs).encode()).hexdigest()[:8]
    folder = Path(sweep.items[0].config.outputs) / "sweeps" / f"{'-'.join(keys) or 'seed'}-{short}"
    files.make_directory(folder)
    states = {result.name: result.state for result in found}
    document = {
        "schema": 1,
        "keys": list(keys),
        "cells": [{"run": n, "state": states[n]} for n in runs],
    }
    files.write_atomic(folder / "sweep.json", json.dumps(document, indent=1) + "\n")
    files.write_atomic(folder / "results.csv", report.csv(found, keys))
    files.write_atomic(folder / "table.md", table)
    return folder


def results(sweep: Sweep) -> list[Result]:
    """Read what every run came to from its folder."""
    found = []
    for item in sweep.items:
        status = read_status(item.config.directory) or {}
        found.append(
            Result(
                directory=str(item.config.directory),
                settings=item.settings,
                state="failed" if item.state == "failed" else status.get("state", "planned"),
                final=status.get("final") or {},
                message=item.message or status.get("message"),
                classes=item.config.classes,
            )
        )
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
    about = _about(config)
    sizes = "/".join(map(str, about.sizes))
    parts = [_part(config, group) for group in ("model", "norm", "init")]
    first = [*parts, f"{about.label} {sizes}", f"{config.device} {config.precision}"]
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
    if config.eval_stats != "running":
        second.append(f"eval_stats={config.eval_stats}")
    if seeds > 1:
        second.append(f"{seeds} seeds")
    return [
        f"normbench {__version__}  " + " | ".join(first),
        "   ".join(second),
        str(config.directory if seeds == 1 else config.directory.parent),
    ]


def labels(sweep: Sweep) -> list[str]:
    """Name each run of a sweep by what varies."""
    settings = [item.settings for item in sweep.items]
    several = len({each["seed"] for each in settings}) > 1
    keys = report.swept(settings)
    return report.labels(settings, [*keys, "seed"] if several or not keys else keys)


def plan_lines(sweep: Sweep) -> list[str]:
    """List what a command would do."""
    lines = [
        f"{'finished already' if item.finished else 'to train':<17} {item.config.directory}"
        f"   {label}   steps {item.config.steps}   lr {item.config.lr:g}"
        f"   statistics over {item.config.stat_batch}"
        for item, label in zip(sweep.items, labels(sweep), strict=True)
    ]
    count = f"plan: {len(sweep.items)} runs, {len(sweep.todo)} to train"
    skipped = [f"{each.state:<17} {each.message}" for each in _not_applying(sweep)]
    return [count, *lines, *skipped]


def _runs(sweep: Sweep, found: Sequence[Result]) -> list[dict[str, Any]]:
    """One entry per configuration with all its seeds."""
    documents = report.runs(found)
    configs = {str(item.config.directory.parent): item.config for item in sweep.items}
    return [
        {**document, "config": configs[str(document["dir"])].experiment()} for document in documents
    ]


def _part(config: Config, group: str) -> str:
    """A part with the options that differ from their defaults: `gn(groups=4)`."""
    options = getattr(config, group)
    declared = registry.facts(group, options["name"]).options
    changed = [
        f"{key}={written(value)}"
        for key, value in _leaves(options)
        if key in declared and value != declared[key].default
    ]
    return str(options["name"]) + (f"({', '.join(changed)})" if changed else "")


def _leaves(options: Any) -> list[tuple[str, Any]]:
    return list(config.leaves(options))


def _about(chosen: Config) -> Any:
    return config.data_about({"data": chosen.data})


def _uses_batch(config: Config) -> bool:
    return bool(registry.facts("norm", config.norm["name"]).constants["uses_batch"])
