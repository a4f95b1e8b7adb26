"""`normbench plot`: one figure of finished runs. Imports no torch."""

from __future__ import annotations

import shlex
from pathlib import Path

from normbench.cli import compare, report
from normbench.cli.parser import Parser, screen
from normbench.errors import Mistake, Refused

EXAMPLES = (
    "normbench plot convergence outputs/sweeps/NAME",
    "normbench plot batch norm=bn,gn -o batch.png",
    "normbench plot differences outputs/sweeps/NAME --baseline bn -o d.pdf",
)
FORMS = (".svg", ".png", ".pdf")


def parser() -> Parser:
    """Return the parser of the command's words."""
    made = Parser("plot", "Draw one figure of finished runs.", EXAMPLES)
    about = "convergence, batch, differences, lr, failures or cost"
    made.add_argument("figure", metavar="FIGURE", help=about)
    compare.add_choice(made)
    where = "a .svg, .png or .pdf (default: FIGURE.svg)"
    made.add_argument("-o", "--out", metavar="FILE", type=Path, help=where)
    return made


def run(words: list[str]) -> int:
    """Draw a figure into a file.

    Returns: 0.
    Raises: Refused if there is no such figure, or nothing to draw in it; FileRefused.
    """
    from normbench.parts.options import nearest
    from normbench.sweeps import reported

    options = parser().parsed(words)
    name = options.figure
    if name not in reported.CAPTIONS:
        why = f"is none of {', '.join(reported.CAPTIONS)}"
        near = nearest(name, reported.CAPTIONS)
        raise Refused(Mistake(f"plot {name}", why, f"normbench plot {near}"))
    path = report.target(options.out or Path(f"{name}.svg"), FORMS, f"-o {name}.svg")
    gathered = report.gathered(options, shlex.join(["normbench", "plot", *words]))
    picture = gathered.picture(name)
    if picture is None:
        there = next((each for each in reported.CAPTIONS if gathered.picture(each)), None)
        fix = shlex.join(
            ["normbench", *(["plot", there] if there else ["compare"]), *options.places]
        )
        why = "these runs have nothing to draw in this figure"
        raise Refused(Mistake(f"plot {name}", why, fix))
    from normbench.display import drawing  # imports matplotlib
    from normbench.runtime import storage

    storage.write_atomic(path, drawing.encoded(picture.figure, path.suffix[1:]))
    shown = screen(options)
    shown.document({"command": "plot", "file": str(path), "caption": picture.caption})
    shown.lines([str(path)])
    return 0
