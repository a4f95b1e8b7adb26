"""Finds the runs of a preset, a command line that is kept in a file, by what it would train."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from normbench.errors import Mistake, Refused, counted
from normbench.parts.options import quoted
from normbench.runs.reader import STATUS
from normbench.settings import compose


def folders(preset: Sequence[str], outputs: Path) -> list[Path]:
    """List the folders of the runs that a training with these words has.

    Raises: Refused for words that are wrong, or runs that have not begun.
    """
    words = [*preset, quoted("outputs", str(outputs))]
    cells = compose.Grid(compose.loader()).cells(words, multirun=True)
    configs = [each for cell in cells if cell.config for each in cell.config.with_seeds()]
    found = [*dict.fromkeys(config.directory for config in configs)]
    if any(config.tune == "lr" for config in configs):
        why = "chooses learning rates, so that only the folder of its sweep tells its runs"
        raise Refused(Mistake(shlex.join(preset), why, "normbench compare outputs/sweeps/NAME"))
    left = sum(not (folder / STATUS).is_file() for folder in found)
    if left:
        why = f"{left} of its {counted(len(found), 'run')} have not begun"
        raise Refused(Mistake(shlex.join(preset), why, f"normbench train -m {shlex.join(preset)}"))
    return found
