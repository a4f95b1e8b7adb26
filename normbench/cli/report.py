"""`normbench report`: what finished runs say as one page, with figures. Imports no torch."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from normbench.cli import compare
from normbench.cli.parser import Parser, screen
from normbench.errors import FileRefused, Mistake, Refused

if TYPE_CHECKING:
    from normbench.sweeps.reported import Report

EXAMPLES = (
    "normbench report outputs/sweeps/NAME           writes report.html into that folder",
    "normbench report outputs/sweeps/NAME -o report.md",
    "normbench report norm=bn,gn batch=2 --baseline bn -o answer.html",
)
FORMS = (".html", ".md", ".csv")


def parser() -> Parser:
    """Return the parser of the command's words."""
    text = "Write what finished runs say: tables, figures, the commands that repeat them, the cost."
    made = Parser("report", text, EXAMPLES)
    compare.add_choice(made)
    about = "a .html, .md or .csv (default: report.html in the folder of the sweep, or of outputs)"
    made.add_argument("-o", "--out", metavar="FILE", type=Path, help=about)
    return made


def run(words: list[str]) -> int:
    """Write a report.

    Returns: 0.
    Raises: Refused or FileRefused if the runs cannot be compared, or the file cannot be written.
    """
    options = parser().parsed(words)
    path = target(options.out, FORMS, "-o report.html") if options.out else None
    report = gathered(options, shlex.join(["normbench", "report", *words]))
    path = path or _usual(options, report)
    written = write(report, path)
    shown = screen(options)
    shown.document({"command": "report", "file": str(path), "figures": [*map(str, written)]})
    shown.lines([str(path), *map(str, written)])
    return 0


def target(path: Path, forms: tuple[str, ...], fix: str) -> Path:
    """Give a path that a file is to be written to.

    Raises: Refused if its ending is none of `forms`; FileRefused if it is a folder, or in none.
    """
    if path.is_dir():
        raise FileRefused(str(path), "is a folder", f"-o {path / fix.split()[-1]}")
    if path.suffix not in forms:
        raise Refused(Mistake(f"-o {path}", f"does not end in {', '.join(forms)}", fix))
    if not path.parent.is_dir():
        why = f"its folder {path.parent} is not here"
        raise FileRefused(str(path), why, f"mkdir -p {shlex.quote(str(path.parent))}")
    return path


def gathered(options: argparse.Namespace, words: str) -> Report:
    """Read the runs that a command asks about.

    Raises: Refused or FileRefused if they cannot be compared.
    """
    from normbench.sweeps import compared, records
    from normbench.sweeps.reported import Report

    asked = compare.question(options)
    answer = compared.answer(asked)
    places = [compared.here(place, asked.outputs) for place in asked.places]
    sweeps = [place for place in places if (place / records.SWEEP).is_file()]
    return Report(answer, sweeps, words, compare.differing(answer))


def write(report: Report, path: Path) -> list[Path]:
    """Write a report in the form that the ending says.

    Returns: the figures that lie beside it, which only Markdown has.
    """
    from normbench.results import export
    from normbench.runtime import storage

    laid = report.answer.layout
    if path.suffix == ".csv":
        storage.write_atomic(path, export.csv(laid.results, laid.keys))
        return []
    from normbench.display import drawing, page  # imports matplotlib and jinja2

    title = " and ".join(place.name for place in report.sweeps) or f"{laid.by} compared"
    drawn = {each.name: drawing.encoded(each.figure, "svg") for each in report.pictures}
    if path.suffix == ".html":
        storage.write_atomic(path, page.html(report, title, drawn))
        return []
    beside = {name: path.with_name(f"{path.stem}-{name}.svg") for name in drawn}
    for name, place in beside.items():
        storage.write_atomic(place, drawn[name])
    names = {name: place.name for name, place in beside.items()}
    storage.write_atomic(path, page.markdown(report, title, names))
    return [*beside.values()]


def _usual(options: argparse.Namespace, report: Report) -> Path:
    """Choose where a report goes that has no name: into its sweep, or beside all runs."""
    outputs = compare.question(options).outputs
    return (report.sweeps[0] if len(report.sweeps) == 1 else outputs) / "report.html"
