"""`normbench compare`: finished runs against each other, paired by seed. Imports no torch."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from normbench.cli.parser import Parser, screen
from normbench.errors import Mistake, Refused, counted

if TYPE_CHECKING:
    from normbench.display.screen import Screen
    from normbench.results.layout import Layout
    from normbench.results.tables import Table
    from normbench.sweeps.compared import Answer, Question


EXAMPLES = (
    "normbench compare                              all runs below outputs",
    "normbench compare outputs/sweeps/NAME --baseline bn",
    "normbench compare norm=bn,gn batch=2           of all runs, those with these settings",
    "normbench compare experiment=small_batch       the runs of a preset",
    "normbench compare --where norm=bn,gn --by batch --metric val/loss",
    "normbench compare norm=bn,gn --metric seconds --target 0.95",
    "normbench compare norm x init                  does the initializer change what it is worth",
    "normbench compare --anova                      which setting makes how much of the variance",
)


class Further(NamedTuple):
    """What is shown below the values: tables, sentences, and the same as plain data."""

    tables: list[Table]
    sentences: list[str]
    plain: Mapping[str, object]


def parser() -> Parser:
    """Return the parser of the command's words."""
    text = "Compare finished runs: values, differences paired by seed, failures, what else differs."
    made = Parser("compare", text, EXAMPLES)
    add_choice(made)
    add = made.add_argument
    add("--seeds-in-common", action="store_true", help="only seeds that all compared arms have")
    add(
        "--failures",
        choices=("apart", "chance"),
        default="apart",
        help="chance: a failed run counts as one that guesses, in the mean",
    )
    add("--sort", action="store_true", help="rows by their mean place in the columns, best first")
    add("--images", action="store_true", help="intervals for fresh test images, McNemar, churn")
    add("--anova", action="store_true", help="share of the variance by setting, pair, seed, rest")
    forms = made.add_mutually_exclusive_group()
    for form in ("csv", "markdown", "latex"):
        about = f"write {form}"
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form, help=about)
    return made


def add_choice(made: Parser) -> None:
    """Add the options that say which runs, and what of them, to a parser."""
    about = "runs, sweeps, folders of outputs; filters KEY=VALUE,VALUE; or experiment=NAME"
    made.add_argument("places", nargs="*", default=[], metavar="PLACE", help=about)
    add = made.add_argument
    add("--where", nargs="+", default=[], metavar="KEY=V,V", help="only runs with these settings")
    add("--by", metavar="KEY", help="what is compared (default: norm, init, or the first)")
    add("--baseline", metavar="VALUE", help="what differences are to: gn, or norm=gn")
    add(
        "--metric",
        default="test/accuracy",
        help="accuracy, val/accuracy, loss, auc, gap, gen_gap,"
        " examples, seconds, core_seconds, speed, or a tag such as test/accuracy/invert",
    )
    add("--target", type=float, metavar="X", help="accuracy that examples and seconds are to")


def run(words: list[str]) -> int:
    """Compare finished runs.

    Returns: 0.
    Raises: Refused or FileRefused if they cannot be compared.
    """
    from normbench.sweeps import compared

    options = parser().parsed(words)
    if options.json and options.form:
        why = "is another form than --json: one of the two is written"
        raise Refused(Mistake(f"--{options.form}", why, "--json"))
    other = _crossed(options)
    found = compared.answer(question(options))
    show(found, options.form, screen(options), further(found, other, options))
    return 0


def further(answer: Answer, other: str | None, options: argparse.Namespace) -> Further | None:
    """Make the tables of several settings at once, if they are asked for.

    Args: other: the key whose interaction with the compared one is asked for.
    Raises: Refused if there is no such key, or not every combination has runs.
    """
    from normbench.results import factors

    laid = answer.layout
    keys = [*laid.across, *laid.down]
    if other is not None and other not in keys:
        why = f"does not vary among these runs besides {laid.by}; what does is {', '.join(keys)}"
        fix = f"normbench compare {laid.by} x {keys[0]}" if keys else "normbench compare"
        raise Refused(Mistake(other, why if keys else "does not vary among these runs", fix))
    drawn: list[Table] = []
    said: list[str] = []
    if other is not None:
        table, said = factors.interaction(laid, other)
        drawn.append(table)
    if options.images:
        drawn.append(_images(laid))
    if options.anova:
        try:
            drawn.append(factors.anova(laid))
        except factors.Unbalanced:
            why = "needs runs that trained with common seeds for every combination of the settings"
            fix = "--failures=chance    (or --where, for settings that have them)"
            raise Refused(Mistake("--anova", why, fix)) from None
    plain = factors.documents(laid, other, options.anova)
    return Further(drawn, said, plain) if drawn else None


def _images(laid: Layout) -> Table:
    """Read which test images the runs got right, and lay out what they say.

    Raises: Refused if that was not kept.
    """
    from normbench.results import images
    from normbench.sweeps import traces

    kept = {run.directory: traces.right(run, laid.metric) for run in laid.results if run.directory}
    right = {place: bits for place, bits in kept.items() if bits}
    if not right:
        why = "none of these runs has kept which images it got right, by this metric"
        raise Refused(Mistake("--images", why, "--images --metric test/accuracy"))
    return images.table(laid, right)


def _crossed(options: argparse.Namespace) -> str | None:
    """Take `norm x init` out of the words: the compared key, and the one that changes its effect.

    Raises: Refused if a key is missing beside the x, or another one is to be compared.
    """
    if "x" not in options.places:
        return None
    at = options.places.index("x")
    pair = [*options.places[max(at - 1, 0) : at], *options.places[at + 1 : at + 2]]
    if len(pair) < 2 or options.by not in (None, pair[0]):
        raise Refused(Mistake("x", "stands between two settings", "normbench compare norm x batch"))
    options.by, other = pair
    del options.places[at - 1 : at + 2]
    return str(other)


def question(options: argparse.Namespace) -> Question:
    """Read what is asked off the options of a command.

    Raises: Refused if a target is no accuracy.
    """
    from normbench.sweeps.compared import Question

    if options.target is not None and not 0 < options.target < 1:
        why = "is not an accuracy between 0 and 1"
        raise Refused(Mistake(f"--target {options.target:g}", why, "--target 0.9"))
    filters = [word for word in options.places if "=" in word and not Path(word).exists()]
    places = [word for word in options.places if word not in filters]
    kept = any(word.lstrip("+").startswith("experiment=") for word in filters)
    outputs = options.outputs or os.environ.get("NORMBENCH_OUTPUTS") or "outputs"
    return Question(
        outputs=Path(outputs),
        places=[Path(word) for word in places],
        preset=filters if kept else (),
        where=[*([] if kept else filters), *options.where],
        by=options.by,
        baseline=options.baseline,
        metric=options.metric,
        target=options.target,
        in_common=getattr(options, "seeds_in_common", False),
        sort=getattr(options, "sort", False),
        as_chance=getattr(options, "failures", "apart") == "chance",
    )


def show(answer: Answer, form: str | None, shown: Screen, more: Further | None) -> None:
    """Write an answer: on the screen, as JSON, or in another form.

    Args: more: what is shown in place of the differences to a baseline.
    """
    from normbench.results import against, compare, export, notes, tables

    laid = answer.layout
    table = against.table(laid)
    shown_else = more or Further([table] if table else [], against.sentences(laid), {})
    drawn = [compare.table(laid), *shown_else.tables]
    said = [*shown_else.sentences, *notes.stopped(answer.automatic), differing(answer)]
    if shown.json:
        shown.document(_document(answer, shown_else.plain))
        return
    if form == "csv":
        shown.text(export.comparison_csv(laid).rstrip("\n"))
        return
    if form:
        write = tables.markdown if form == "markdown" else tables.latex
        drawn[-1] = replace(drawn[-1], notes=(*drawn[-1].notes, *said))
        shown.text("\n".join(map(write, drawn)).rstrip("\n"))
        return
    for place, table in enumerate(drawn):
        shown.lines([""] * bool(place))
        shown.table(table)
    shown.lines([""])
    for line in said[:-1]:
        shown.statement(f" {line}")
    shown.statement(f" {said[-1]}", "failed" if answer.confounders else "")


def _document(answer: Answer, more: Mapping[str, object]) -> dict[str, Any]:
    """Give an answer as the document of JSON."""
    from normbench.results import against, export, notes

    laid = answer.layout
    return {
        "command": "compare",
        "comparison": export.comparison(laid),
        "sentences": [*against.sentences(laid), *notes.stopped(answer.automatic)],
        "differing": answer.confounders,
        "left_out": answer.dropped,
        **more,
        "runs": export.documents(laid.results, laid.metric),
    }


def differing(answer: Answer) -> str:
    """Say what differs besides the compared key, and what was left out."""
    line = f"differing besides {answer.layout.by}: {_by_arm(answer.confounders) or 'nothing'}"
    if answer.brought:
        line += f"; with it comes {_by_arm(answer.brought)}"
    if answer.dropped:
        line += f"; {counted(answer.dropped, 'run')} left out, whose seeds are not in common"
    return line


def _by_arm(differing: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """Write values of keys, the arms of one value together: `bias (bn auto; gn, ln on)`."""
    texts = []
    for key, arms in differing.items():
        values: dict[str, list[str]] = {}
        for arm, found in arms.items():
            values.setdefault(_listed(found), []).append(arm)
        texts.append(f"{key} ({'; '.join(f'{_listed(v)} {k}' for k, v in values.items())})")
    return ", ".join(texts)


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values[:4]) + ", …" * (len(values) > 4)
