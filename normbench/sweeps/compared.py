"""Answers a question about recorded runs: which runs, what differs, what is compared. No torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from normbench.errors import Mistake, Refused, counted, pasted
from normbench.parts.options import nearest
from normbench.results import differing, groups, metrics
from normbench.results.groups import Result, Twice
from normbench.results.layout import Block, Layout, compared_key
from normbench.results.pairs import Comparison
from normbench.settings.schema import EVALUATION
from normbench.sweeps import filters, records, traces
from normbench.sweeps.filters import Filter
from normbench.sweeps.records import StoredSweep

MOST = 8  # names that a message lists
RUNS = "normbench compare    (which reads all of outputs/runs)"
LR = "optimizer.lr"  # what `tune=lr` chooses
BROUGHT = ("activation", "bias", "placement")  # a norm chooses them unless they are given
ByArm = dict[str, dict[str, list[str]]]


@dataclass(frozen=True)
class Question:
    """What is asked of recorded runs.

    Args: places: of runs, sweeps or outputs, by default all of `outputs`; preset: in their place,
    `experiment=NAME` with further words of a training whose runs are meant; where: filters
    `KEY=VALUE,VALUE`; by: the compared key; baseline: its value that differences are to; metric:
    by its tag or short name; target: the accuracy that times are to; in_common: keep only the seeds
    that all configurations have; as_chance: count a failed run as one that guesses;
    sort: rows with the best place first.
    """

    outputs: Path
    places: Sequence[Path] = ()
    preset: Sequence[str] = ()
    where: Sequence[str] = ()
    by: str | None = None
    baseline: str | None = None
    metric: str = "test/accuracy"
    target: float | None = None
    in_common: bool = False
    as_chance: bool = False
    sort: bool = False


@dataclass(frozen=True)
class Answer:
    """What recorded runs say: their layout, what else differs, and what was left out.

    Args: confounders: values by arm of each key that differs besides the compared one; brought:
    the same of settings that a norm chooses where they are not given, and of tuned rates; dropped:
    runs that were left out since others lack their seeds; automatic: whether the results decided
    how many seeds there are.
    """

    layout: Layout
    confounders: ByArm = field(default_factory=dict)
    brought: ByArm = field(default_factory=dict)
    dropped: int = 0
    automatic: bool = False


def answer(question: Question) -> Answer:
    """Read the runs that are asked for and lay out their comparison.

    Raises: Refused if they cannot be compared so; FileRefused if they are not here or damaged.
    """
    return of(chosen(question), question)


def of(stored: StoredSweep, question: Question) -> Answer:
    """Lay out the comparison of runs that were read.

    Raises: Refused if they cannot be compared so; FileRefused if their rows are damaged.
    """
    metric = metrics.SHORT.get(question.metric, question.metric)
    found = measured(stored.results, metric, question)
    varying = differing.varying(found)
    by, baseline = _asked(question, stored, varying)
    if stored.keys and by in stored.keys:
        keys, told, confounders = stored.keys, found, differing.beside(found, by, stored.keys)
    else:
        differs = differing.differing(found, by)
        keys, told, confounders = differs.keys, differs.results, differs.confounders
        told = filters.ordered(told, keys, filters.read(question.where))
    kept = in_common(told, by) if question.in_common else told
    laid = Layout(kept, keys, metric, by, baseline, question.as_chance)
    check(laid, varying, question)
    if question.sort:
        laid = replace(laid, order=laid.ranking, wanted=laid.baseline)
    brought = {
        key: arms
        for key, arms in confounders.items()
        if (key == LR and stored.tuned) or (by == "norm" and key in BROUGHT and _fixed(arms))
    }
    rest = {key: arms for key, arms in confounders.items() if key not in brought}
    return Answer(laid, rest, brought, len(told) - len(kept), stored.automatic)


def chosen(question: Question) -> StoredSweep:
    """Read the runs of the places that pass the filters, each once.

    Of a single sweep with the keys that it swept and what it compared; else these are empty.
    """
    wanted = filters.read(question.where)
    places = [here(place, question.outputs) for place in question.places]
    if question.preset:
        from normbench.sweeps import presets  # imports Hydra, which other comparisons do without

        places += presets.folders(question.preset, question.outputs)
    if len(places) == 1 and (places[0] / records.SWEEP).is_file():
        stored = records.sweep(places[0])
    elif places:
        read = [result for place in places for result in records.at(place)]
        once = {(os.path.abspath(each.directory), each.evaluation): each for each in read}
        stored = StoredSweep(_evaluated([*once.values()], question, wanted))
    else:
        stored = StoredSweep(_evaluated(records.everything(question.outputs), question, wanted))
    if not stored.results:
        place = str((places or [question.outputs])[0])
        raise Refused(Mistake(place, "no run is here", "normbench train -m norm=none,bn seeds=6"))
    if wanted:
        stored = replace(stored, results=filters.apply(wanted, stored.results))
    keys = groups.swept([result.settings for result in stored.results], stored.keys)
    return replace(stored, keys=keys)


def _evaluated(
    results: Sequence[Result], question: Question, wanted: Sequence[Filter]
) -> list[Result]:
    """Keep one evaluation of each run, unless a setting of evaluations is asked about.

    That is its own, or where that has not the metric, the one that most runs have of those that do.
    """
    if not {question.by, *(each.key for each in wanted)}.isdisjoint(EVALUATION):
        return [*results]
    metric = metrics.SHORT.get(question.metric, question.metric)
    having = Counter(result.evaluation for result in results if metric in result.final)
    found: dict[str, Result] = {}
    for name in dict.fromkeys(["", *(name for name, _ in having.most_common())]):
        for result in results:
            lacks = metric not in found.get(result.directory, result).final
            if result.evaluation == name and (lacks or result.directory not in found):
                found[result.directory] = result
    return [*found.values()]


def measured(results: Sequence[Result], metric: str, question: Question) -> list[Result]:
    """Read a metric of each run, where it needs the curves or the clock.

    Raises: Refused if no run that came to an end has it, naming what they have.
    """
    found = [*results]
    if metric in metrics.CURVES:
        found = [traces.with_curve(result, metric, question.target) for result in results]
    elif metric == metrics.SHORT["speed"]:
        found = [_with_speed(result) for result in results]
    ended = [result for result in found if result.state in groups.RESULTS]
    has = any(metric in result.final or metric in result.waited for result in ended)
    if ended and not has:
        raise Refused(_not_recorded(question.metric, metric, ended))
    return found


def in_common(results: Sequence[Result], by: str) -> list[Result]:
    """Keep the runs with the seeds that all values of the compared key have."""
    seeds: dict[object, set[int]] = {}
    for result in results:
        seeds.setdefault(result.settings.get(by), set()).add(result.seed)
    common = set.intersection(*seeds.values())
    return [result for result in results if result.seed in common]


def check(laid: Layout, varying: Sequence[str], question: Question) -> None:
    """Refuse a layout in which nothing can be compared, or of which a run has a copy.

    Raises: Refused.
    """
    values = [*dict.fromkeys(row[-1] for row in laid.names)]
    if not laid.by or len(values) < 2:
        count = len(laid.results)
        has = (
            f"all {counted(count, 'run')} have {laid.by}={values[0]}"
            if laid.by
            else f"{counted(count, 'run')} of one kind"
        )
        other = next((key for key in varying if key != laid.by), None)
        fix = f"--by {other}" if other else _more(question)
        raise Refused(Mistake("compare", f"{has}: there is nothing to compare it with", fix))
    if laid.wanted is not None and laid.wanted not in values:
        why = f"is not a value of {laid.by} here: {', '.join(values[:MOST])}"
        raise Refused(Mistake(f"--baseline {laid.wanted}", why, f"--baseline {values[0]}"))
    blocks = [block for block in _blocks(laid) if len(block.trained) > 1]
    if blocks and not any(rival.d for block in blocks for rival in _pairs(block, laid.baseline)):
        arms = next(iter(blocks)).trained
        seeds = "; ".join(f"{row[-1]} {_seeds(arm.values)}" for row, arm in [*arms.items()][:MOST])
        fix = "normbench train -m norm=bn,gn seeds=6    (equal seeds for all)"
        raise Refused(Mistake("seeds", f"none is in common, so nothing is paired: {seeds}", fix))


def _more(question: Question) -> str:
    """Name the command that has more to compare: with all runs, or if those are all, a training."""
    some = question.places or question.preset or question.where
    return RUNS if some else "normbench train -m norm=none,bn seeds=6"


def _blocks(laid: Layout) -> list[Block]:
    try:
        return [*laid.blocks.values()]
    except Twice as error:
        first, second = error.first.directory, error.second.directory
        why = f"has the settings and the seed of {first}, too: only one can count"
        fix = f"mv {pasted(Path(second).parent)} .    (which takes it out of the runs)"
        raise Refused(Mistake(second, why, fix)) from None


def _pairs(block: Block, baseline: str) -> list[Comparison]:
    return [*block.above(baseline).values(), *block.rivals.values()]


def _fixed(arms: Mapping[str, Sequence[str]]) -> bool:
    return all(len(values) == 1 for values in arms.values())


def _asked(
    question: Question, stored: StoredSweep, varying: Sequence[str]
) -> tuple[str, str | None]:
    """Say which key is compared, and with which of its values, as asked or as the sweep did.

    Raises: Refused if the key does not vary, or the baseline is of another one.
    """
    keys = [*dict.fromkeys([*stored.keys, *varying])]
    key, _, value = (question.baseline or "").rpartition("=")
    by = question.by or key or stored.compare or compared_key(stored.keys or keys)
    if by and by not in keys:
        why = (
            f"does not vary among these runs; what varies is {', '.join(keys[:MOST]) or 'nothing'}"
        )
        fix = f"--by {nearest(by, keys)}" if keys else _more(question)
        raise Refused(Mistake(f"--by {by}", why, fix))
    if key and key != by:
        why = f"is of {key}, and {by} is compared"
        raise Refused(Mistake(f"--baseline {question.baseline}", why, f"--by {key}"))
    own = stored.baseline if by == (stored.compare or by) else None
    return by, value or own


def here(place: Path, outputs: Path) -> Path:
    """Find a place by its path, or a sweep or a configuration by its name below the outputs."""
    known = [outputs / folder / place for folder in ("sweeps", "runs")]
    return next((path for path in [place, *known] if path.exists()), place)


def _with_speed(result: Result) -> Result:
    if not result.train_s or not result.steps:
        return result
    spent = 1000 * result.train_s / result.steps
    return replace(result, final={**result.final, metrics.SHORT["speed"]: spent})


def _not_recorded(asked: str, metric: str, ended: Sequence[Result]) -> Mistake:
    """Say that a metric is not there, and which are."""
    if metric.startswith("target/"):
        why = "needs an accuracy to be reached: these runs were trained without a target"
        return Mistake(f"--metric {asked}", why, f"--metric {asked} --target 0.9")
    names = sorted(_judged(ended))
    also = ", ".join(metrics.SHORT)
    why = f"was not recorded by these runs, which have {', '.join(names)}; short names are {also}"
    return Mistake(f"--metric {asked}", why, f"--metric {nearest(asked, names)}")


def _judged(ended: Sequence[Result]) -> set[str]:
    """List the recorded numbers that say something of a run's result."""
    names = {name for result in ended for name in result.final}
    return {name for name in names if name.split("/")[0] in ("test", "val", "gap", "gen_gap")}


def _seeds(values: Mapping[int, float]) -> str:
    return ", ".join(map(str, sorted(values)[:MOST]))
