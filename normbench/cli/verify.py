"""`normbench verify`: every file and digest of runs, checked; changes nothing."""

from __future__ import annotations

from normbench.cli.parser import Parser, add_place, place, screen
from normbench.errors import FileRefused, counted

EXAMPLES = (
    "normbench verify outputs/runs/NAME/seed0       one run",
    "normbench verify outputs/sweeps/norm-1a2b3c4d  the runs and the results of a sweep",
    "normbench verify                               all runs of outputs",
)


def parser() -> Parser:
    """Return the parser of the command's words."""
    made = Parser("verify", "Check every file and digest of runs; changes nothing.", EXAMPLES)
    add_place(made)
    return made


def run(words: list[str]) -> int:
    """Check every file of the runs at a path, and name each that is damaged.

    Returns: 0, or 3 if one is.
    Raises: FileRefused if there are no runs at the path.
    """
    options = parser().parsed(words)
    shown = screen(options)
    from normbench.runs.verify import verify
    from normbench.sweeps import records

    looked = place(options)
    folders = records.folders(looked)
    found = [error for folder in folders for error in verify(folder)]
    if not found and (looked / records.SWEEP).is_file():
        found = records.verify(looked)
    mistakes = [mistake for error in found for mistake in error.mistakes]
    damaged = [{"path": each.subject, "why": each.why, "fix": each.fix} for each in mistakes]
    shown.document({"command": "verify", "runs": len(folders), "damaged": damaged})
    if found:
        found[0].mistakes = mistakes
        shown.error(found[0])
    count = counted(len(folders), "run")
    shown.text(f"{count}: {f'{len(found)} damaged' if found else 'all files are whole'}")
    return FileRefused.code if found else 0
