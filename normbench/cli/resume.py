"""`normbench resume`: goes on with a run or a sweep, by the settings that its folder keeps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench.cli import training
from normbench.cli.parser import Parser, screen
from normbench.errors import FileRefused, Mistake, Refused, pasted, shown
from normbench.parts.options import written

if TYPE_CHECKING:
    from normbench.settings.schema import Config

EXAMPLES = (
    "normbench resume outputs/runs/NAME/seed0",
    "normbench resume outputs/sweeps/NAME jobs=4",
    "normbench resume outputs/runs/NAME/seed0 allow_changed=true",
)
# What can be said anew: it changes neither weights nor rows.
ANEW = (
    *("jobs", "lanes", "allow_changed", "force", "download", "checkpoint_every", "keep", "tb"),
    "capture",
)
ALLOWED = "allow_changed=true"
ABSENT = object()


def parser() -> Parser:
    """Return the parser of the command's words."""
    text = "Go on with a run or a sweep by the settings that its folder keeps."
    made = Parser("resume", text, EXAMPLES, settings=_settings)
    about = "the folder of a run or of a sweep, and how it is to go on"
    made.add_argument("words", nargs="*", metavar="DIR [KEY=VALUE ...]", help=about)
    return made


def run(words: list[str]) -> int:
    """Go on with what is not finished, as the command that began it would.

    Returns: as `normbench train` does; 0 if all is finished already.
    Raises: FileRefused if the folder is none of a run or a sweep, damaged, in use, or of other
        settings than are said; as `normbench train` does.
    """
    from normbench.sweeps import records, remembered
    from normbench.sweeps.command import Command

    options = parser().parsed(words)
    shown = screen(options, vital=False)
    places = [word for word in options.words if "=" not in word or Path(word).exists()]
    if len(places) != 1:
        why = f"takes one folder, and {len(places)} are named"
        fix = "normbench resume DIR    (normbench status lists what is there)"
        raise Refused(Mistake("resume", why, fix))
    place, given = Path(places[0]), [word for word in options.words if word not in places]
    swept = (place / records.SWEEP).is_file()
    found = remembered.sweep(place) if swept else remembered.run(place)
    values = _anew(given, place, None if swept else found.cells[0].config) if given else {}
    work = training.planned(remembered.settle(found.cells, values), shown)
    command = Command(work, shown, found.multirun, found.words)
    with training.carried_out(command):
        training.task(None)
    return training.code_of(command)


def _anew(words: Sequence[str], place: Path, config: Config | None) -> dict[str, Any]:
    """Read the settings that the command line gives anew; those that a run has change nothing.

    Args: config: of the run, None for a sweep.
    Raises: Refused if one is wrong; FileRefused if what goes on has another one.
    """
    from normbench.settings import compose
    from normbench.sweeps import records

    grid = compose.Grid(compose.loader())
    grid.read.given(words)
    there = records.flat(config.plain()) if config else {}
    anew = {*ANEW, "threads"} if ALLOWED in words else ANEW
    row = []
    for word in words:
        key, _, here = word.partition("=")
        read = grid.read.read(word, multirun=False)
        if read and key in anew:
            row += read
        elif read and written(there.get(key, ABSENT)) != here:
            why = "says what is trained, which was settled when it began"
            if key in there:
                why = f"{key} is {shown(written(there[key]))} there and {shown(here)} here"
            fix = f"normbench resume {pasted(place)}    (without {shown(word)})"
            if key == "threads":
                fix = f"{ALLOWED}    (goes on, and equal bits are not promised any more)"
            raise FileRefused(str(place), why if key in there else f"{shown(word)} {why}", fix)
    tree = grid.checked(row)
    grid.read.stop()
    keys = (text.partition("=")[0] for text in row)
    return {"other_threads" if key == "threads" else key: tree[key] for key in keys}


def _settings() -> str:
    from normbench.settings.declared import declared_keys
    from normbench.settings.described import entry

    lines = [entry(setting) for setting in declared_keys() if setting.name in ANEW]
    return "\n".join(["settings: KEY=VALUE", *chain(*lines)])
