"""`normbench eval`: asks finished runs something new from their weights, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from normbench.cli.parser import Parser, screen
from normbench.errors import Mistake, Refused, counted

if TYPE_CHECKING:
    from normbench.display.screen import Screen
    from normbench.results.groups import Result
    from normbench.sweeps.items import Item

EXAMPLES = (
    "normbench eval outputs/sweeps/NAME shifts=[invert]",
    "normbench eval outputs/runs/*/seed0 eval_stats=running,batch,dataset",
    "normbench eval outputs/runs/NAME train_acc=true probe=true",
    "normbench eval outputs/runs/NAME data=imagefolder data.path=DIR",
)
FURTHER = (
    *("train_eval/accuracy", "gen_gap/accuracy", "probe/saturated", "probe/linear_zone"),
    *("probe/rank", "probe/weight_rank", "probe/cka"),
)


def parser() -> Parser:
    """Return the parser of the command's words."""
    text = "Ask finished runs something new from their weights; nothing is trained."
    made = Parser("eval", text, EXAMPLES, settings=_settings)
    about = "runs, sweeps, folders of outputs; and settings KEY=VALUE, or lists of values"
    made.add_argument("words", nargs="*", metavar="WORD", help=about)
    made.add_argument("--csv", action="store_true", help="one line per run and evaluation")
    return made


def run(words: list[str]) -> int:
    """Judge runs, and show what came of it; what has been judged before is read.

    Returns: 0, or 1 if an evaluation failed.
    Raises: Refused or FileRefused before anything is judged.
    """
    from normbench.settings.overrides import current
    from normbench.sweeps import judging

    options = parser().parsed(words)
    shown = screen(options)
    given = [word for word in options.words if "=" in word and not Path(word).exists()]
    places = [Path(word) for word in options.words if word not in given]
    if not places:
        raise Refused(Mistake("eval", "names no run", "normbench eval outputs shifts=[invert]"))
    planned = judging.items(places, judging.asked([current(word) for word in given]))
    judge(planned, shown)
    results = judging.results(planned)
    show(results, options.csv, shown)
    return int(any(result.state == "failed" for result in results))


def judge(planned: list[Item], shown: Screen) -> None:
    """Judge what is left in a pool of children.

    Raises: FileRefused if data is not here, or its classes are others; Refused if a norm cannot be
        judged so.
    """
    from normbench.cli import data
    from normbench.sweeps import describe, sweep

    left = [how for item in planned for how in item.missing]
    shown.heading(
        [f"eval: {counted(len(planned), 'run')}, {counted(len(left), 'evaluation')} to make"]
    )
    if not left:
        return
    data.fetch(data.missing(each for how in left for each in (how, how.tested)), shown)
    from normbench.runs.judge import check  # imports torch

    check(left)
    sweep.train(planned, describe.labels(planned), shown)


def show(results: Sequence[Result], csv: bool, shown: Screen) -> None:
    """Write what came of evaluations: tables by metric, one document, or CSV."""
    from normbench.results import compare, differing, export, groups
    from normbench.results.layout import compared_key

    found = differing.differing(results, compared_key(differing.varying(results)))
    if csv:
        shown.text(export.csv(found.results, found.keys).rstrip("\n"))
        return
    shown.document({"command": "eval", "runs": export.documents(results)})
    metrics = ["test/accuracy", *groups.further_tests(results)]
    metrics += [tag for tag in FURTHER if any(tag in result.final for result in results)]
    for place, metric in enumerate(metrics):
        has = [result for result in found.results if metric in result.final]
        shown.lines([""] * (place > 0))
        shown.table(compare.table(compare.layout(has or found.results, found.keys, metric)))


def _settings() -> str:
    from normbench.settings.declared import declared_keys
    from normbench.settings.described import entry
    from normbench.settings.fields import JUDGED

    judged = (each for each in declared_keys() if each.limits.get("section") == JUDGED)
    return "\n".join(["settings: KEY=VALUE", *(line for each in judged for line in entry(each))])
