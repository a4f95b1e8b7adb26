"""`normbench train`: checks every cell of the command line, then lets Hydra start the runs."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from normbench.cli.parser import Parser, quoted, screen
from normbench.errors import InUse, NormbenchError, Refused
from normbench.sweeps.command import Command, entered, running

if TYPE_CHECKING:
    from normbench.display.screen import Screen
    from normbench.settings.compose import Cell
    from normbench.sweeps.plan import Sweep

BUSY_WAIT_S = 1.0  # between two tries at a run that another job works on
EXAMPLES = (
    "normbench train norm=gn batch=2",
    "normbench train norm=gn norm.groups=4 model=mlp model.depth=5 epochs=3",
    "normbench train -m model=mlp norm=none,bn,gn batch=2,32 seeds=5",
    "normbench train data=imagefolder data.path=DIR model=resnet20 steps=200",
    "normbench train --cfg job norm=frn            print the composed settings",
)


def parser() -> Parser:
    """Return the parser of the command's words."""
    text = "Train one configuration, or with -m every combination of lists."
    made = Parser("train", text, EXAMPLES, overrides=True, settings=_settings)
    made.add_argument("-m", "--multirun", action="store_true", help="run all combinations")
    made.add_argument("--cfg", choices=("job", "hydra", "all"), help="print the settings only")
    made.add_argument("--package", metavar="GROUP", help="with --cfg: only this group")
    made.add_argument("--info", nargs="?", const="all", metavar="WHAT", help="explain Hydra's")
    made.add_argument("--config-dir", metavar="DIR", help="your own configuration files")
    return made


def run(words: list[str]) -> int:
    """Train one configuration, or every cell of a sweep.

    Returns: 0 if every run came to a result, else 1 or what the jobs of another launcher returned.
    Raises: NormbenchError before anything is started that cannot work, or from the only run.
    """
    from normbench.settings.overrides import current

    options = parser().parsed(words)
    options.typed = options.overrides
    options.overrides = [current(text) for text in options.overrides]
    _with_outputs(options)
    if follows := _follows():
        options.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if options.cfg is not None or options.info is not None:
        return _explained(options)
    command = _checked(options)
    if command is None:
        return 0
    try:
        with entered(command), _hydra(options) as start:
            start()
    except NormbenchError as error:
        if not command.sweep.tunings:
            raise
        command.screen.error(error)  # the tuning before it has a result
        command.codes.append(error.code)
    code = max(command.codes)
    if not follows and (command.multirun or command.sweep.tunings or not code):
        from normbench.sweeps import sweep

        sweep.conclude(command.sweep, command.screen, command.multirun, command.words)
    return code


def _explained(options: argparse.Namespace) -> int:
    """Let Hydra print what it would compose, of settings that are not checked."""
    from normbench.settings import compose, overrides

    deep = [mistake for text in options.overrides if (mistake := overrides.too_deep(text))]
    if deep:
        raise Refused(*deep)
    with compose.composing(options.overrides), entered(None), _hydra(options) as start:
        start()
    return 0


def task(composed: Any) -> int:
    """Train the command that is running, or the one configuration of another launcher's job.

    Args: composed: by Hydra; None from our launcher, for all cells of the command.
    """
    command = running.get()
    if command is None or (command.multirun and composed is not None):
        return _job(composed)
    from normbench.sweeps import sweep

    work, shown = command.sweep, command.screen
    if work.tunings:
        sweep.choose(work, shown)
        sweep.announce(work, shown)
    if len(work.items) == 1 and not work.skipped:
        (item,) = work.items
        with sweep.single(item, shown) as on_row:
            if on_row:
                from normbench.runs import run as runs
                from normbench.runs.judge import judge

                if not item.trained:
                    item.state = runs.run(item.config, on_row)
                judge(item.missing)
    elif work.items:
        sweep.many(work, shown)
    done = [*work.tuning_items, *work.items]
    command.codes.append(int(any(item.state == "failed" for item in done)))
    return command.codes[-1]


def _job(composed: Any) -> int:
    """Train what Hydra composed for one job, and say what goes wrong in the job's process."""
    from omegaconf import OmegaConf

    from normbench.display.screen import Screen
    from normbench.settings import compose

    tree = OmegaConf.to_container(OmegaConf.create(composed), resolve=True)
    quiet = Screen(quiet=True)
    try:
        cell = compose.composed({str(key): value for key, value in tree.items()})  # type: ignore[union-attr]
        return _waiting(cell, quiet)
    except NormbenchError as error:
        quiet.error(error)
        return error.code


def _waiting(cell: Cell, quiet: Screen) -> int:
    """Train a cell, after others that come to the same run: jobs that differ in an evaluation."""
    from normbench.sweeps.plan import Sweep

    while True:
        try:
            with entered(Command(Sweep([cell]), quiet)):
                return task(None)
        except InUse:
            time.sleep(BUSY_WAIT_S)


def planned(cells: Sequence[Cell], shown: Screen) -> Sweep:
    """Plan the runs of checked cells, see whether their parts fit, and download missing data.

    Raises: Refused with all misfits; FileRefused if data is not here and may not be downloaded.
    """
    from normbench.cli import data
    from normbench.sweeps import plan, sweep

    work = plan.Sweep(cells)
    absent = data.missing(cell.config for cell in work.cells if cell.left)
    sweep.check_comparison(work)
    dry = any(cell.config.dry_run for cell in work.cells)
    # Who looks at a terminal sees the runs before the check, which imports torch, unless it may
    # leave some out; those of a tuning are not known yet.
    early = shown.live and not any(cell.config.skip_invalid for cell in work.cells)
    known = not dry and not work.tunings
    if known and early:
        sweep.announce(work, shown)
    for warning in [*sweep.recorded_otherwise(work), *sweep.check(work)]:
        shown.warn(warning.text)
    if known and not early:
        sweep.announce(work, shown)
    if not dry:
        data.fetch(absent, shown)
    return work


def _checked(options: argparse.Namespace) -> Command | None:
    """Check every cell before Hydra starts; None if there is nothing to start."""
    from normbench.settings import compose
    from normbench.sweeps import describe

    grid, shown = compose.Grid(compose.loader(options.config_dir)), screen(options)
    work = planned(grid.cells(options.overrides, options.multirun), shown)
    if any(cell.config.dry_run for cell in work.cells):
        shown.text("\n".join(describe.plan_lines(work)))
        return None
    return Command(work, shown, options.multirun, options.typed)


def _follows() -> bool:
    """Tell whether torchrun made of this process a worker other than the first, which speaks."""
    from normbench.runtime import machine

    place = machine.rank_info()
    return place is not None and place.rank > 0


@contextmanager
def _hydra(options: argparse.Namespace) -> Iterator[Callable[[], None]]:
    """Give what composes again and calls `task` or our launcher; leaves the process as it was."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from normbench.parts import registry

    words, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    raises, before = logging.raiseExceptions, GlobalHydra.instance().hydra
    start = hydra.main(str(registry.configs()), config_name="train", version_base="1.3")
    try:
        sys.argv = ["normbench train", *_for_hydra(options)]
        os.environ["HYDRA_FULL_ERROR"] = "1"  # a defect comes up with its own traceback
        logging.raiseExceptions = False  # Hydra prints --info by logging; `| head` is no error
        GlobalHydra.instance().clear()
        yield start(task)
    finally:
        sys.argv, logging.raiseExceptions = words, raises
        GlobalHydra.instance().hydra = before
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _for_hydra(options: argparse.Namespace) -> list[str]:
    words = ["--multirun"] if options.multirun else []
    for name in ("cfg", "package", "info", "config_dir"):
        if value := getattr(options, name):
            words.append(f"--{name.replace('_', '-')}={value}")
    return [*words, *options.overrides]


def _with_outputs(options: argparse.Namespace) -> None:
    """Let `--outputs` and `$NORMBENCH_OUTPUTS` become an override; the command line wins."""
    given = [text for text in options.overrides if text.startswith("outputs=")]
    place = options.outputs or (not given and os.environ.get("NORMBENCH_OUTPUTS"))
    if place:
        options.overrides.append(quoted("outputs", place))


def _settings() -> str:
    """List the parts of each group, and the settings with their defaults."""
    from normbench.parts import registry
    from normbench.settings.declared import default_parts, described

    groups = [
        f"{f'{group}={name}':<21} # {' '.join(registry.choices(group))}"
        for group, name in default_parts().items()
    ]
    return "\n".join(
        ["parts: GROUP=NAME, options GROUP.OPTION=VALUE (normbench list norms NAME)", *groups, ""]
        + ["settings: KEY=VALUE", *described()]
    )
