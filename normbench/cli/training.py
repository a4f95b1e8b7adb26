"""Carries out a command that trains: what is planned, started, and shown of it at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from normbench.errors import InUse, Mistake, NormbenchError
from normbench.runtime.lock import Wait
from normbench.sweeps.command import Command, entered, running

if TYPE_CHECKING:
    from normbench.display.screen import Screen
    from normbench.settings.cell import Cell
    from normbench.sweeps.plan import Sweep

BUSY_WAIT_S = 1.0  # between two tries at a run that another job works on


def planned(cells: Sequence[Cell], shown: Screen, told: bool = True) -> Sweep:
    """Plan the runs of checked cells, see whether their parts fit, and download missing data.

    Args: told: whether the runs are announced.
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
    known = told and not dry and not work.tunings
    if known and early:
        sweep.announce(work, shown)
    if shown.live and "torch" not in sys.modules and any(cell.left for cell in work.cells):
        shown.loading("torch")
    for warning in [*sweep.recorded_otherwise(work), *sweep.check(work)]:
        shown.warn(warning.text)
    if known and not early:
        sweep.announce(work, shown)
    if not dry:
        data.fetch(absent, shown)
    return work


@contextmanager
def carried_out(command: Command, follows: bool = False) -> Iterator[None]:
    """Let a `with` block start the runs of a command; what fails after a tuning is shown only.

    Where Ctrl-C ends it, what there is by now is shown, and how to go on.
    Args: follows: whether another process shows it.
    """
    try:
        with entered(command):
            yield
    except NormbenchError as error:
        if not command.sweep.tunings:
            raise
        command.screen.error(error)  # the tuning before it has a result
        command.codes.append(error.code)
    except KeyboardInterrupt:
        if command.sweep.items and not command.trials and not follows:
            from normbench.sweeps import conclusion

            conclusion.stopped(command.sweep, command.screen, command.multirun, command.words)
        raise


def code_of(command: Command, follows: bool = False) -> int:
    """Show what came of a command and return its exit code.

    Args: follows: whether another process shows it.
    """
    code = max(command.codes, default=0)
    if not follows and (command.multirun or command.sweep.tunings or not code):
        code = max(code, _concluded(command))
    if command.screen.lost:  # the work is done all the same
        why = f"cannot be written: {command.screen.lost}"
        fix = "normbench compare    (shows the results again)"
        command.screen.warn(Mistake("output", why, fix).text)
    return code


def _concluded(command: Command) -> int:
    """Show what came of the runs, and return 1 if one of another launcher's is not there."""
    from normbench.sweeps import conclusion

    if command.trials:
        command.sweep = command.trials.conclude(command.screen)
    elif command.sweep.cells:
        conclusion.conclude(command.sweep, command.screen, command.multirun, command.words)
    return int(any(not item.finished for item in command.sweep.items))


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
        if command.untold and not work.tunings:
            sweep.announce(work, shown)
        board = conclusion.begin(work, shown, command.multirun, command.words)
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
        if not command.holds:
            raise
        return None
    code = int(any(item.state == "failed" for item in (*work.tuning_items, *work.items)))
    command.codes.append(code)
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
    from normbench.settings import composer, jobs
    from normbench.sweeps import trials

    tree = OmegaConf.to_container(OmegaConf.create(composed), resolve=True)
    quiet = Screen(quiet=True)
    chooses = HydraConfig.get().runtime.choices["hydra/sweeper"] not in composer.GRIDS
    try:
        cell = jobs.checked({str(key): value for key, value in tree.items()})  # type: ignore[union-attr]
        code = _waiting(cell, quiet)
        return trials.value(cell) if chooses else code
    except NormbenchError as error:
        quiet.error(error)
        return None if chooses else error.code


def _waiting(cell: Cell, quiet: Screen) -> int:
    """Train a cell, after others that come to the same run: jobs that differ in an evaluation."""
    from normbench.sweeps.plan import Sweep

    wait = Wait()
    while True:
        try:
            with entered(Command(Sweep([cell]), quiet)):
                return int(task(None))
        except InUse as refused:
            wait.pause(refused, BUSY_WAIT_S)
