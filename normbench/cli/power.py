"""`normbench power`: how many seeds a difference takes, before spending. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from normbench.cli import compare
from normbench.cli.parser import Parser, screen
from normbench.errors import Mistake, Refused
from normbench.results import metrics, pairs, power
from normbench.results.metrics import Metric
from normbench.results.power import Spread

EXAMPLES = (
    "normbench power norm=bn,gn --difference 1      of stored runs, for one point",
    "normbench power outputs/sweeps/NAME --baseline bn",
    "normbench power --sd 0.6 --difference 0.5,1    without runs: a spread of 0.6 points",
)
UNITS = (1.0, 0.5)  # points that are looked for unless others are named


def parser() -> Parser:
    """Return the parser of the command's words."""
    text = "Tell which differences so many seeds resolve, and how many seeds a difference takes."
    made = Parser("power", text, EXAMPLES)
    compare.add_choice(made)
    made.add_argument("--sd", type=float, metavar="X", help="of the paired differences, in points")
    made.add_argument("--difference", metavar="D,D", help="those wanted, in points of an accuracy")
    made.add_argument("--seeds", metavar="N,N", help="numbers of seeds to tell differences for")
    return made


def run(words: list[str]) -> int:
    """Tell how many seeds differences take.

    Returns: 0.
    Raises: Refused or FileRefused if there is nothing to tell it from.
    """
    options = parser().parsed(words)
    metric = metrics.of(metrics.SHORT.get(options.metric, options.metric))
    seeds = [int(n) for n in numbers(options.seeds, "--seeds", whole=True) or power.SEEDS]
    found = _given(options, metric) if options.sd is not None else _recorded(options)
    wanted = numbers(options.difference, "--difference") or _usual(found, metric)
    shown = screen(options)
    shown.document(_document(found, metric, seeds, wanted))
    shown.table(power.table(found, metric, seeds, wanted))
    return 0


def numbers(text: str | None, option: str, whole: bool = False) -> list[float]:
    """Read a list of positive numbers, whole ones from 2 on.

    Raises: Refused.
    """
    found = []
    for word in (text or "").split(",") if text is not None else []:
        try:
            value = float(word)
        except ValueError:
            value = -1.0
        if not 0 < value < 1e6 or (whole and (value < 2 or value != int(value))):
            kind = "a whole number from 2 to 999,999" if whole else "a number above 0"
            fix = f"{option} {'6,12' if whole else '0.5,1'}"
            raise Refused(Mistake(f"{option} {text}", f"{word or 'nothing'} is not {kind}", fix))
        found.append(value)
    return found


def _given(options: argparse.Namespace, metric: Metric) -> list[Spread]:
    """Take the spread that was named."""
    if not 0 < options.sd < 1e6:
        raise Refused(Mistake(f"--sd {options.sd:g}", "is not a number above 0", "--sd 0.6"))
    if options.places or options.where:
        why = "is given in place of runs, and runs are named too"
        raise Refused(Mistake(f"--sd {options.sd:g}", why, f"normbench power --sd {options.sd:g}"))
    return [Spread(("paired differences",), options.sd / metric.scale)]


def _recorded(options: argparse.Namespace) -> list[Spread]:
    """Take the spreads of recorded runs, with what they cost."""
    from normbench.sweeps import compared, traces

    laid = compared.answer(compare.question(options)).layout
    cost = {
        result.directory: spent
        for result in laid.results
        if (spent := traces.core_seconds(result)) is not None
    }
    found = power.spreads(laid, cost)
    if not any(spread.sd for spread in found):
        why = "no pair of arms has 3 seeds with which both train and differ"
        fix = "normbench train -m norm=bn,gn seeds=6"
        raise Refused(Mistake("power", why, fix))
    return found


def _usual(found: Sequence[Spread], metric: Metric) -> Sequence[float]:
    """Choose the differences to look for: one point and half of it, else the spread itself."""
    if metric.percent:
        return UNITS
    largest = max(spread.sd or 0.0 for spread in found)
    return [float(f"{largest:.1g}")]


def _document(
    found: Sequence[Spread], metric: Metric, seeds: Sequence[int], wanted: Sequence[float]
) -> dict[str, Any]:
    """Give the same as plain data, numbers as fractions."""
    pairs_found = [
        {
            "pair": spread.names[0],
            "at": spread.names[1] if spread.names[1:] else "",
            "sd": spread.sd,
            "n": spread.n,
            "core_seconds_per_seed": spread.cost,
            "resolvable": {str(n): pairs.resolvable(n, spread.sd) for n in seeds}
            if spread.sd
            else None,
            "seeds_for": [
                {
                    "difference": difference / metric.scale,
                    "seeds": pairs.seeds_for(difference / metric.scale, spread.sd),
                }
                for difference in wanted
                if spread.sd
            ],
        }
        for spread in found
    ]
    return {"command": "power", "metric": metric.name, "pairs": pairs_found}
