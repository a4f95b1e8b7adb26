"""The commands as functions of `normbench`: the same checks, the same runs, the same bits."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from normbench.cli.training import planned, task
from normbench.display.screen import Screen
from normbench.errors import Mistake, Refused
from normbench.parts.options import quoted, written
from normbench.results import groups
from normbench.results.groups import Result
from normbench.rows import Row
from normbench.settings import compose
from normbench.settings.cell import Cell
from normbench.settings.schema import EVALUATION, Config
from normbench.sweeps import conclusion, records
from normbench.sweeps.command import Command, entered
from normbench.sweeps.runs import Runs

ONE_RUN = {"seeds": 1, "tune": "none", "dry_run": False}  # what the config of one run has


def config(*overrides: str, **settings: Any) -> Config:
    """Compose and check the configuration of one run: `config("norm=gn", batch=2)`.

    Args: overrides: `KEY=VALUE` as on the command line. settings: further ones by keyword; None is
        null, a path is taken as it stands, any other text is read as on the command line.
    Raises: Refused (a NormbenchError) with all mistakes; FileRefused if the data is not here.
    """
    (cell,) = _cells(overrides, settings, multirun=False)
    assert cell.config is not None
    for key, usual in ONE_RUN.items():
        if (value := getattr(cell.config, key)) != usual:
            text = f"{key}={written(value)}"
            fix = "normbench.sweep(...)" if key != "dry_run" else "dry_run=false"
            raise Refused(Mistake(text, "is not for one run that is to be trained", fix))
    return cell.config


def run(
    *what: Config | str, on_row: Callable[[Row], None] | None = None, **settings: Any
) -> Result:
    """Train one configuration in this process, or read what came of it if it is finished.

    Args: what: one config, as `normbench.config` makes it, or overrides: `run("norm=gn", batch=2)`.
        on_row: is called with each recorded row. settings: as of `config`.
    Returns: how the run ended and its last value of each metric; `settings` are all that make its
        numbers, as flat dotted keys.
    Raises: Refused if the parts do not fit; NormbenchError if the run fails. A run that diverges
        is a result.
    """
    made = [each for each in what if isinstance(each, Config)]
    words = [each for each in what if isinstance(each, str)]
    if made and (len(what) > 1 or settings):
        why = "is one config, which takes no further settings"
        raise Refused(Mistake("run", why, "run(config), or run(KEY=VALUE, ...)"))
    chosen = made[0] if made else config(*words, **settings)
    work = planned([Cell((), chosen)], _silent())
    (item,) = work.items
    if not item.finished:
        from normbench.sweeps.completing import complete  # imports torch, finished runs do without

        complete(item, on_row or (lambda row: None))
    (result,) = work.results()
    judged = {key: getattr(chosen, key) for key in EVALUATION}
    return replace(result, settings={**judged, **records.flat(chosen.experiment())})


def sweep(*overrides: str, **settings: Any) -> Runs:
    """Train every combination of lists, as `normbench train -m` does: `sweep("norm=none,bn")`.

    What is finished is not trained again; the sweep's folder is written.

    Args: as of `config`; a list of values is a text, `norm="none,bn"`.
    Returns: a list, with tables and figures: one result for each run, a failed one among them, in
        the order of the sweep; `settings` are those that were given, with the seed.
    Raises: Refused (a NormbenchError) with all mistakes, before anything is trained.
    """
    silent = _silent()
    work = planned(_cells(overrides, settings, multirun=True), silent)
    if any(cell.config.dry_run for cell in work.cells):
        raise Refused(Mistake("dry_run=true", "is not for runs to be trained", "dry_run=false"))
    with entered(Command(work, silent, multirun=True)):
        task(None)
    words = [*overrides, *(_override(key, value) for key, value in settings.items())]
    folder = conclusion.conclude(work, silent, multirun=True, words=words)
    results = conclusion.first_of_each(work.results())
    return Runs(results, groups.swept([result.settings for result in results]), folder)


def load(place: str | Path = "outputs") -> Runs:
    """Read what came of a run, a sweep, or all runs below a folder of outputs; imports no torch.

    Returns: as of `load_results`; of a sweep in the order typed.
    Raises: FileRefused if there are none, or their files are damaged.
    """
    path = Path(place).expanduser()
    if (path / records.SWEEP).is_file():
        stored = records.sweep(path)
        return Runs(stored.results, stored.keys, path)
    return Runs(records.at(path))


def load_results(outputs: str | Path = "outputs") -> list[Result]:
    """Read what came of all runs below a folder of outputs; imports no torch.

    Returns: one result for each run that has begun, sorted by directory, and for each further
        evaluation of it; `settings` are all that make its numbers, as flat dotted keys.
    Raises: FileRefused if there is no such folder, or a run's files are damaged.
    """
    return records.everything(Path(outputs))


def _cells(overrides: tuple[str, ...], settings: Mapping[str, Any], multirun: bool) -> list[Cell]:
    texts = [_override(key, value) for key, value in settings.items()]
    return compose.Grid(compose.loader()).cells([*overrides, *texts], multirun)


def _override(key: str, value: Any) -> str:
    return quoted(key, str(value)) if isinstance(value, Path) else f"{key}={written(value)}"


def _silent() -> Screen:
    return Screen(quiet=True, stream=io.StringIO(), out=io.StringIO())
