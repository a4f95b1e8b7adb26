"""`normbench train`: checks every cell of the command line, then lets Hydra start the runs."""

from __future__ import annotations

import argparse
import os
import sys

from normbench.cli.hydra_start import starting
from normbench.cli.parser import Parser, screen, settings
from normbench.cli.training import carried_out, code_of, planned, task
from normbench.errors import Mistake, Refused
from normbench.parts.options import quoted
from normbench.sweeps.command import Command, entered

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
    made = Parser("train", text, EXAMPLES, overrides=True, settings=settings)
    about = f"explain what Hydra does: {', '.join(INFO)}"
    made.add_argument("-m", "--multirun", action="store_true", help="run all combinations")
    made.add_argument("--cfg", choices=("job", "hydra", "all"), help="print the settings only")
    made.add_argument("--package", metavar="GROUP", help="with --cfg: only this group")
    made.add_argument("--info", nargs="?", const="all", choices=INFO, metavar="WHAT", help=about)
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
    with carried_out(command, follows):
        if _nothing_left(command, options):
            task(None)
        else:
            with starting(task, options, command) as start:
                start()
    return code_of(command, follows)


def _nothing_left(command: Command, options: argparse.Namespace) -> bool:
    """Tell whether all is finished and no word is Hydra's own: composing again is of no use then.

    It takes a sixth of the time in which a finished sweep is shown.
    """
    cells = command.sweep.cells
    own = any(word.lstrip("+~").startswith("hydra") for word in options.overrides)
    return bool(cells) and not (own or options.config_dir or any(cell.left for cell in cells))


def _explained(options: argparse.Namespace) -> int:
    """Let Hydra print what it would compose, of settings that are not checked."""
    from normbench.settings import overrides, rules

    options.overrides = [overrides.current(text) for text in options.overrides]
    large = [mistake for text in options.overrides if (mistake := rules.too_large(text))]
    if large:
        raise Refused(*large)
    with entered(None), starting(task, options, None) as start:
        try:
            start()
        except SystemExit as end:  # Hydra has said why on the line before
            if end.code:
                why = "the settings have no such group"
                fix = "normbench train --cfg all"
                raise Refused(Mistake(f"--package={options.package}", why, fix)) from None
    return 0


def _checked(options: argparse.Namespace) -> Command | None:
    """Check every cell before Hydra starts; None if there is nothing to start."""
    from normbench.display.screen import Screen
    from normbench.settings import compose, composer, members
    from normbench.sweeps import describe, plan, trials

    grid, shown = compose.Grid(compose.loader(options.config_dir)), screen(options, vital=False)
    cells = grid.cells(options.overrides, options.multirun, options.switches)
    options.multirun = options.multirun or grid.hydra.multirun
    own = grid.composer.words
    words = [*own, *(members.for_hydra(text) for text in grid.texts if text not in own)]
    if grid.hydra.params and options.multirun:
        words.append("hydra.sweeper.params=null")  # they are among the words
    for line in grid.notes:
        shown.note(line)
    sweeper = grid.hydra.sweeper
    chooses = options.multirun and sweeper not in composer.GRIDS
    # Hydra may refuse its own words as late as when it starts; jobs of other launchers say nothing.
    untold = bool(own) and (grid.rounds or not options.multirun)
    work = planned(cells, Screen(quiet=True) if chooses else shown, told=not untold)
    if chooses and work.cells:
        better = trials.direction(work.cells[0].config.optimize)
        if not any(word.startswith("hydra.sweeper.direction") for word in words):
            words.append(f"hydra.sweeper.direction={better}")
    options.overrides = words
    if any(cell.config.dry_run for cell in work.cells):
        lines = [f"plan: hydra/sweeper={sweeper} chooses"] if chooses else describe.plan_lines(work)
        shown.text("\n".join(lines))
        return None
    command = Command(work, shown, options.multirun, options.typed, untold=untold)
    if chooses:
        searched = trials.searched(cells)
        command.trials, command.sweep = trials.Trials(grid, better, searched), plan.Sweep([])
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
