"""Writes a report as one HTML file without outside links, and as Markdown beside its figures."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader
from markupsafe import Markup

from normbench.errors import escaped
from normbench.results import tables


def html(report: Any, title: str, figures: Mapping[str, bytes]) -> str:
    """Write the page; whatever stands in names and messages, it is shown and never run.

    All text is escaped, figures are images, which run nothing, and the browser is told to run no
    script but the one that sorts tables.

    Args: report: a `sweeps.reported.Report`; figures: each of its pictures as SVG, by name.
    """
    script = _file("report.js")
    return rendered(
        "report.html",
        report=report,
        title=title,
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        pictures=[
            {
                "name": picture.name,
                "caption": picture.caption,
                "svg": base64.b64encode(figures[picture.name]).decode(),
            }
            for picture in report.pictures
        ],
    )


def rendered(name: str, **values: Any) -> str:
    """Fill a template of this folder; all text is escaped."""
    environment = Environment(autoescape=True, finalize=_shown, loader=FunctionLoader(_file))
    return environment.get_template(name).render(**values)


def _file(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def markdown(report: Any, title: str, figures: Mapping[str, str]) -> str:
    """Write the report as Markdown; text of the user cannot become markup.

    Args: figures: where the pictures lie, relative to the file, by name.
    """
    plain = tables.plain
    lines = [f"# {plain(title)}", "", *(f"- {plain(line)}" for line in report.sentences), ""]
    lines += [tables.markdown(table) for table in report.tables]
    for picture in report.pictures:
        lines += [f"![{plain(picture.caption)}](<{figures[picture.name]}>)", ""]
    lines += ["## What it hangs on", ""]
    lines += [f"- {name}: {plain(text)}" for name, text in report.about]
    lines += ["", "## Commands that train the runs again", ""]
    for name, command in report.commands:
        lines += [f"{plain(name)}:" if name else "", "", f"    {escaped(command)}", ""]
    return "\n".join([*lines, "## Runs", "", tables.markdown(report.runs)])


def _shown(value: Any) -> Any:
    """Write out control and direction-changing characters of all texts but our own script."""
    return escaped(value) if isinstance(value, str) and not isinstance(value, Markup) else value
