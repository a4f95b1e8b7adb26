"""Every setting in words, in lines that a terminal of 80 columns can show."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from normbench.parts.options import Declared, written
from normbench.settings.declared import declared_keys
from normbench.settings.fields import RECORDED

COMMENT, WIDTH = 22, 80  # where the sentence on a setting begins, and where it is wrapped


def described(form: str = "{key}={value}") -> Iterator[str]:
    """Describe every setting that is not a part: its default and a sentence, by section.

    Args: form: how key and value are written.
    """
    section = ""
    for setting in declared_keys():
        name = setting.limits.get("section", RECORDED)
        if name != section:
            yield from (*[""] * bool(section), f"# {name}")
            section = name
        yield from entry(setting, form)


def entry(setting: Declared, form: str = "{key}={value}") -> list[str]:
    """Describe one setting: its default and a sentence."""
    start = form.format(key=setting.name, value=written(setting.default))
    return explained(start, setting.limits["help"])


def explained(start: str, text: str) -> list[str]:
    """Put a text behind what it explains, in lines that a terminal of 80 columns can show."""
    first = f"{start.ljust(COMMENT - 2)}  # "
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * COMMENT + "# ",
        break_long_words=False,
        break_on_hyphens=False,
    )
