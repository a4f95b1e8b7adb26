"""`normbench plot`: one figure of finished runs. Imports no torch."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from normbench.cli import compare, report
from normbench.cli.parser import Parser, screen
from normbench.errors import Mistake, Refused
from normbench.results.depth import QUANTITIES

if TYPE_CHECKING:
    from normbench.sweeps.reported import Report

EXAMPLES = (
    "normbench plot convergence outputs/sweeps/NAME",
    "normbench plot batch norm=bn,gn -o batch.png",
    "normbench plot layers outputs/sweeps/NAME --quantity grad_norm --step 0",
    "normbench plot differences outputs/sweeps/NAME --baseline bn -o d.pdf",
)
FORMS = (".svg", ".png", ".pdf")


def parser() -> Parser:
    """Return the parser of the command's words."""
    made = Parser("plot", "Draw one figure of finished runs.", EXAMPLES)
    about = "convergence, batch, differences, lr, layers, failures or cost"
    made.add_argument("figure", metavar="FIGURE", help=about)
    compare.add_choice(made)
    known = f"layers: {', '.join(QUANTITIES)}"
    made.add_argument("--quantity", metavar="NAME", default="act_std", help=known)
    steps = "layers: after which step (default: -1, the last)"
    made.add_argument("--step", metavar="N", type=int, default=-1, help=steps)
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
    if options.quantity not in QUANTITIES:
        fix = f"--quantity {nearest(options.quantity, list(QUANTITIES))}"
        raise Refused(Mistake(f"--quantity {options.quantity}", "is no quantity of layers", fix))
    path = report.target(options.out or Path(f"{name}.svg"), FORMS, f"-o {name}.svg")
    asked = gathered(options, shlex.join(["normbench", "plot", *words]))
    picture = asked.picture(name)
    if picture is None:
        there = next((each for each in reported.CAPTIONS if asked.picture(each)), None)
        fix = shlex.join(
            ["normbench", *(["plot", there] if there else ["compare"]), *options.places]
        )
        why = "these runs have nothing to draw in this figure"
        if name == "layers":
            why, fix = "no run there has such rows", "--step -1    (of runs with diagnose=full)"
        raise Refused(Mistake(f"plot {name}", why, fix))
    from normbench.display import drawing  # imports matplotlib
    from normbench.runtime import storage

    storage.write_atomic(path, drawing.encoded(picture.figure, path.suffix[1:]))
    shown = screen(options)
    shown.document({"command": "plot", "file": str(path), "caption": picture.caption})
    shown.lines([str(path)])
    return 0


def gathered(options: argparse.Namespace, words: str) -> Report:
    """Read the runs that a command asks about, and what it asks about their layers.

    Raises: Refused or FileRefused if they cannot be compared.
    """
    return replace(report.gathered(options, words), layers=(options.quantity, options.step))
