"""Every failure that a user can cause or meet, with the exit code of the command that meets it.

NormbenchError          1  a run failed
+-- Refused             2  the command line or the configuration cannot work
+-- PartError           2  a part refuses one of its options, or a use of it; also a ValueError
|   +-- NormError          norm
|   +-- ModelError         model
|   +-- InitError          init
|   +-- DataError          data
|   +-- OptimizerError     optimizer
|   +-- ActivationError    activation
|   +-- ScheduleError      schedule
|   +-- OrderError         order
+-- FileRefused         3  a file or folder is missing, damaged, of something else, or in use
|   +-- InUse              another process works on the folder, or has just finished it
+-- MachineError        4  no space, no such device, no memory, no such package
"""

from __future__ import annotations

import shlex
import unicodedata
from dataclasses import dataclass

SHOWN = 80  # characters of a user's text that a message repeats
PATH = 240  # characters of a path, whose end says which file is meant
MISTAKES = 5  # mistakes that one message lists: two lines each


def shown(value: object, most: int = SHOWN) -> str:
    """Give a user's value as one short line that cannot repaint a terminal or a log."""
    text = value if isinstance(value, str) else str(value)
    text = escaped(text[: most + 1])
    return text if len(text) <= most else text[: most - 3] + "..."


def pasted(path: object) -> str:
    """Give a path, whole and quoted, for a command that is printed to be pasted."""
    return shlex.quote(escaped(str(path)))


def escaped(text: str) -> str:
    """Give a text of any length with control and direction-changing characters written out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if unicodedata.category(char)[0] not in "CZ" or char == " " else ascii(char)[1:-1]
        for char in text
    )


def counted(number: int, noun: str) -> str:
    """Say how many there are of something: `1 run`, `2 runs`, `10,000 runs`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong, or worth a warning.

    `subject`: `KEY=VALUE` or a path; `why`: what is wrong with it; `fix`: what works.
    """

    subject: str
    why: str
    fix: str

    @property
    def text(self) -> str:
        """The two lines, without a word on how bad it is."""
        path = "/" in self.subject and "=" not in self.subject
        return f"{shown(self.subject, PATH if path else SHOWN)}: {self.why}\n  try: {self.fix}"

    def __str__(self) -> str:
        return f"normbench: error: {self.text}"


class NormbenchError(Exception):
    """An expected failure: what is wrong with which subject, and what would work instead."""

    code = 1
    reason = "error"  # of a run that fails by it, in its status

    def __init__(self, subject: str, why: str, fix: str) -> None:
        super().__init__(subject, why, fix)
        self.mistakes = [Mistake(subject, why, fix)]

    def __str__(self) -> str:
        lines = [str(mistake) for mistake in self.mistakes[:MISTAKES]]
        if len(self.mistakes) > MISTAKES:
            lines.append(f"  and {len(self.mistakes) - MISTAKES} more of this kind")
        return "\n".join(lines)


class Refused(NormbenchError):
    """A command line or configuration that cannot work; lists every mistake in it."""

    code = 2

    def __init__(self, *mistakes: Mistake) -> None:
        Exception.__init__(self, *mistakes)
        self.mistakes = list(mistakes)


class PartError(NormbenchError, ValueError):
    """A part refuses the value of an option, or what it is asked to do."""

    code = 2
    group = ""  # the key of the configuration whose options are meant

    def __init__(self, option: str, value: object, why: str, fix: object) -> None:
        """Args: option: name, `""` for the part itself; value: as given; fix: a value that works,
        or a text with a `=` or a space in it that is shown as it stands."""
        key = ".".join(filter(None, (self.group, option)))
        text = str(fix)
        super().__init__(
            f"{key}={'null' if value is None else value}",
            why,
            text if "=" in text or " " in text else f"{key}={text}",
        )


class NormError(PartError):
    """A norm refuses an option or the place it is put in."""

    group = "norm"


class ModelError(PartError):
    """A model refuses an option or the data."""

    group = "model"


class InitError(PartError):
    """An initializer refuses an option or a layer."""

    group = "init"


class DataError(PartError):
    """A data set refuses an option."""

    group = "data"


class OptimizerError(PartError):
    """An optimizer refuses an option."""

    group = "optimizer"


class ActivationError(PartError):
    """An activation refuses an option."""

    group = "activation"


class ScheduleError(PartError):
    """A schedule of the learning rate refuses an option."""

    group = "schedule"


class OrderError(PartError):
    """An order of the training images refuses an option or the data."""

    group = "order"


class FileRefused(NormbenchError):
    """A file or folder is missing, damaged, made for something else, or in use."""

    code = 3
    reason = "data"


class InUse(FileRefused):
    """Another process works on a run's folder, or has finished it in the meantime.

    `holder`: that process, in words; `stopped`: whether it is, so that it does not go on by itself.
    """

    holder = "another process"
    stopped = False


class MachineError(NormbenchError):
    """The machine cannot do what is asked: space, device, memory, package."""

    code = 4
    reason = "storage"


def first_line(error: BaseException) -> str:
    """Say in one line what went wrong."""
    if isinstance(error, NormbenchError):
        mistake = error.mistakes[0]
        return f"{mistake.subject}: {mistake.why}"
    return f"{type(error).__name__}: {error}".splitlines()[0]
