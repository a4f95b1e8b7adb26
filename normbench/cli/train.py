"""`normbench train`: checks every cell of the command line, then lets Hydra start the runs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from normbench.cli.hydra_start import starting
from normbench.cli.parser import Parser, screen
from normbench.errors import InUse, Mistake, NormbenchError, Refused
from normbench.parts.options import quoted
from normbench.sweeps.command import Command, entered, running

if TYPE_CHECKING:
    from normbench.display.screen import Screen
    from normbench.settings.cell import Cell
    from normbench.sweeps.plan import Sweep

BUSY_WAIT_S = 1.0  # between two tries at a run that another job works on
EXAMPLES = (
    "normbench train norm=gn batch=2",
    "normbench train norm=gn norm.groups=4 model=mlp model.depth=5 epochs=3",
    "normbench train -m model=mlp norm=none,bn,gn batch=2,32 seeds=5",
    "normbench train data=imagefolder data.path=DIR model=resnet20 steps=200",
    "normbench train experiment=small_batch        a sweep that is kept in a file",
    "normbench train --cfg job norm=frn            print the composed settings",
)
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def parser() -> Parser:
    """Return the parser of the command's words."""
    text = "Train one configuration, or with -m every combination of lists."
    made = Parser("train", text, EXAMPLES, overrides=True, settings=_settings)
    made.add_argument("-m", "--multirun", action="store_true", help="run all combinations")
    made.add_argument("--cfg", choices=("job", "hydra", "all"), help="print the settings only")
    made.add_argument("--package", metavar="GROUP", help="with --cfg: only this group")
    made.add_argument("--info", nargs="?", const="all", choices=INFO, help="explain Hydra's")
    made.add_argument("--config-dir", metavar="DIR", help="your own configuration files")
    return made


def run(words: list[str]) -> int:
    """Train one configuration, or every cell of a sweep.

    Returns: 0 if every run came to a result, else 1 or what the jobs of another launcher returned.
    Raises: NormbenchError before anything is started that cannot work, or from the only run.
    """
    options = parser().parsed(words)
    options.typed = options.overrides
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
        if _nothing_left(command, options):
            with entered(command):
                task(None)
        else:
            with entered(command), starting(task, options, command) as start:
                start()
    except NormbenchError as error:
        if not command.sweep.tunings:
            raise
        command.screen.error(error)  # the tuning before it has a result
        command.codes.append(error.code)
    code = max(command.codes, default=0)
    if not follows and (command.multirun or command.sweep.tunings or not code):
        code = max(code, _concluded(command))
    return code


def _nothing_left(command: Command, options: argparse.Namespace) -> bool:
    """Tell whether all is finished and no word is Hydra's own: composing again is of no use then.

    It takes a sixth of the time in which a finished sweep is shown.
    """
    cells = command.sweep.cells
    own = any(word.lstrip("+~").startswith("hydra") for word in options.overrides)
    return bool(cells) and not (own or options.config_dir or any(cell.left for cell in cells))


def _concluded(command: Command) -> int:
    """Show what came of the runs, and return 1 if one of another launcher's is not there."""
    from normbench.sweeps import conclusion

    if command.trials:
        command.sweep = command.trials.conclude(command.screen)
    elif command.sweep.cells:
        conclusion.conclude(command.sweep, command.screen, command.multirun, command.words)
    return int(any(not item.finished for item in command.sweep.items))


def _explained(options: argparse.Namespace) -> int:
    """Let Hydra print what it would compose, of settings that are not checked."""
    from normbench.settings import overrides

    options.overrides = [overrides.current(text) for text in options.overrides]
    deep = [mistake for text in options.overrides if (mistake := overrides.too_deep(text))]
    if deep:
        raise Refused(*deep)
    with entered(None), starting(task, options, None) as start:
        try:
            start()
        except SystemExit as end:  # Hydra has said why on the line before
            if end.code:
                why = "the settings have no such group"
                fix = "normbench train --cfg all"
                raise Refused(Mistake(f"--package={options.package}", why, fix)) from None
    return 0


def task(composed: Any) -> Any:
    """Train the command that is running, or the one configuration of another launcher's job.

    Args: composed: by Hydra; from our launcher, the rows of overrides of all jobs.
    Returns: an exit code; for our launcher a list of them, or of the values of trials.
    """
    command = running.get()
    if command is None or (command.multirun and isinstance(composed, Mapping)):
        return _job(composed)
    from normbench.sweeps import conclusion, sweep

    work, shown = command.sweep, command.screen
    try:
        if command.trials:
            return command.trials.run(composed, _train_cells, shown.warn)
        if work.tunings:
            sweep.choose(work, shown)
            sweep.announce(work, shown)
        board = None
        if command.multirun or work.tunings:
            board = conclusion.begin(work, command.multirun, command.words)
        if len(work.items) == 1 and not work.skipped:
            (item,) = work.items
            with sweep.single(item, shown) as on_row:
                if on_row:
                    from normbench.runs import run as runs
                    from normbench.runs.judge import judge

                    if not item.trained:
                        item.state = runs.run(item.config, on_row)
                    judge(item.config, item.missing)
        elif work.items:
            sweep.many(work, shown, board)
    except Exception as error:
        command.raised = error  # so that it is not taken for Hydra's
        raise
    done = [*work.tuning_items, *work.items]
    command.codes.append(int(any(item.state == "failed" for item in done)))
    code = command.codes[-1]
    return [code] * len(composed) if isinstance(composed, list | tuple) else code


def _train_cells(cells: list[Cell]) -> None:
    """Train a batch of trials; what fails of it has no value."""
    from normbench.sweeps import sweep

    command = running.get()
    assert command is not None
    try:
        work = planned(cells, command.screen)
        if work.tunings:
            sweep.choose(work, command.screen)
        sweep.many(work, command.screen)
    except NormbenchError as error:
        command.screen.warn(error.mistakes[0].text)


def _job(composed: Any) -> Any:
    """Train what Hydra composed for one job, and say what goes wrong in the job's process."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from normbench.display.screen import Screen
    from normbench.settings import compose, composer
    from normbench.sweeps import trials

    tree = OmegaConf.to_container(OmegaConf.create(composed), resolve=True)
    quiet = Screen(quiet=True)
    chooses = HydraConfig.get().runtime.choices["hydra/sweeper"] not in composer.GRIDS
    try:
        cell = compose.composed({str(key): value for key, value in tree.items()})  # type: ignore[union-attr]
        code = _waiting(cell, quiet)
        return trials.value(cell) if chooses else code
    except NormbenchError as error:
        quiet.error(error)
        return None if chooses else error.code


def _waiting(cell: Cell, quiet: Screen) -> int:
    """Train a cell, after others that come to the same run: jobs that differ in an evaluation."""
    from normbench.sweeps.plan import Sweep

    while True:
        try:
            with entered(Command(Sweep([cell]), quiet)):
                return int(task(None))
        except InUse:
            time.sleep(BUSY_WAIT_S)


def planned(cells: Sequence[Cell], shown: Screen) -> Sweep:
    """Plan the runs of checked cells, see whether their parts fit, and download missing data.

    Raises: Refused with all misfits; FileRefused if data is not here and may not be downloaded.
    """
    from normbench.cli import data
    from normbench.sweeps import comparable, plan, sweep

    work = plan.Sweep(cells)
    absent = data.missing(cell.config for cell in work.cells if cell.left)
    comparable.check_comparison(work)
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
    from normbench.display.screen import Screen
    from normbench.settings import compose, composer, members
    from normbench.sweeps import describe, plan, trials

    grid, shown = compose.Grid(compose.loader(options.config_dir)), screen(options)
    cells = grid.cells(options.overrides, options.multirun, options.switches)
    options.multirun = options.multirun or grid.hydra.multirun
    own = grid.composer.words
    words = [*own, *(members.for_hydra(text) for text in grid.texts if text not in own)]
    for line in grid.notes:
        shown.note(line)
    sweeper = grid.hydra.sweeper
    chooses = options.multirun and sweeper not in composer.GRIDS
    work = planned(cells, Screen(quiet=True) if chooses else shown)
    if chooses and work.cells:
        better = trials.direction(work.cells[0].config.optimize)
        if not any(word.startswith("hydra.sweeper.direction") for word in words):
            words.append(f"hydra.sweeper.direction={better}")
    options.overrides = words
    if any(cell.config.dry_run for cell in work.cells):
        lines = [f"plan: hydra/sweeper={sweeper} chooses"] if chooses else describe.plan_lines(work)
        shown.text("\n".join(lines))
        return None
    command = Command(work, shown, options.multirun, options.typed)
    if chooses:
        command.trials, command.sweep = trials.Trials(grid, better), plan.Sweep([])
    return command


def _follows() -> bool:
    """Tell whether torchrun made of this process a worker other than the first, which speaks."""
    from normbench.runtime import machine

    place = machine.rank_info()
    return place is not None and place.rank > 0


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
    groups.append(f"{'experiment=NAME':<21} # {' '.join(registry.presets())} (kept settings)")
    return "\n".join(
        ["parts: GROUP=NAME, options GROUP.OPTION=VALUE (normbench list norms NAME)", *groups, ""]
        + ["settings: KEY=VALUE", *described()]
    )
