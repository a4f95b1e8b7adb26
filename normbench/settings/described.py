"""Every setting in words, in lines that the terminal can show."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator

from normbench.parts.options import Declared, written
from normbench.settings.declared import declared_keys
from normbench.settings.fields import RECORDED

COMMENT = 22  # where the sentence on a setting begins
NARROW, WIDTH = 40, 80  # columns for which help is made, at least and at most


def width() -> int:
    """Return how many columns of the terminal help may use."""
    return min(WIDTH, max(NARROW, shutil.get_terminal_size().columns))


def described(form: str = "{key}={value}") -> Iterator[str]:
    """Describe every setting that is not a part: its default and a sentence, by section.

    Args: form: how key and value are written.
    """
    section = ""
    for setting in declared_keys():
        name = setting.limits.get("section", RECORDED)
        if name != section:
            yield from (*[""] * bool(section), fitted(name, "# ", "# "))
            section = name
        yield from entry(setting, form)


def entry(setting: Declared, form: str = "{key}={value}") -> list[str]:
    """Describe one setting: its default and a sentence."""
    start = form.format(key=setting.name, value=written(setting.default))
    return explained(start, setting.limits["help"])


def explained(start: str, text: str) -> list[str]:
    """Put a text behind what it explains, in lines that the terminal can show."""
    first = f"{start.ljust(COMMENT - 2)}  # "
    return fitted(text, first, " " * COMMENT + "# ").splitlines()


def fitted(text: str, first: str = "", others: str | None = None, spare: int = 0) -> str:
    """Break a text into lines that the terminal can show.

    Args: first, others: what stands before it in the first line and in others, by default blanks;
    spare: columns that are left free.
    """
    return textwrap.fill(
        text,
        width() - spare,
        initial_indent=first,
        subsequent_indent=" " * len(first) if others is None else others,
        break_long_words=False,
        break_on_hyphens=False,
    )
