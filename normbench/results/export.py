"""Recorded runs as plain documents and as CSV, numbers as fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from normbench.results import stats
from normbench.results.against import SAID
from normbench.results.groups import SEEDS, Group, Key, Result
from normbench.results.layout import Layout
from normbench.results.pairs import Comparison
from normbench.results.sequential import Decision
from normbench.results.stats import Interval
from normbench.results.tables import csv_text

COST = ("steps", "examples", "seconds", "cpu_seconds", "parameters")

ARM = ("mean", "low", "high", "runs", "failed", "failure_bound", "mean_failed_as_chance", "late")
DIFFERENCE = (
    *(
        "difference",
        "difference_low",
        "difference_high",
        "p_t",
        "p_t_holm",
        "p_sign_flip",
        "p_better",
        "n",
        "verdict",
    ),
)


def documents(results: Sequence[Result], metric: str = "test/accuracy") -> list[dict[str, object]]:
    """Give one plain document per configuration, its seeds together, numbers as fractions.

    A configuration that is judged in several ways has one for each.
    """
    folders: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        place = str(PurePath(result.directory).parent), result.evaluation
        folders.setdefault(place, []).append(result)
    return [_document(folder, Group(runs, metric)) for (folder, _), runs in folders.items()]


def csv(results: Sequence[Result], keys: Sequence[str]) -> str:
    """Write one line per run in the order given, with plain numbers: accuracy as a fraction.

    The same results give the same bytes.
    """
    metrics = sorted({metric for result in results for metric in result.final})
    head: list[object] = ["run", *keys, "seed", "state", "outcome", *COST, *metrics, "message"]
    rows: list[list[object]] = [head]
    for result in results:
        settings = [result.settings.get(key, "") for key in keys]
        values = [result.final.get(metric) for metric in metrics]
        ended = [result.state, end.kind if (end := result.outcome()) else None]
        cost = [result.steps, result.examples, result.train_s, result.cpu_s, result.parameters]
        told = [*settings, result.settings.get("seed"), *ended, *cost, *values, result.message]
        rows.append([result.name, *told])
    return csv_text(rows)


def bounds(interval: Interval | None) -> list[float] | None:
    """Give the bounds of an interval as plain data."""
    return [interval.low, interval.high] if interval else None


def _document(folder: str, group: Group) -> dict[str, object]:
    settings = group.results[0].settings
    return {
        "dir": folder,
        "evaluation": group.results[0].evaluation or None,
        "state": group.state,
        "config": {key: value for key, value in settings.items() if key not in SEEDS},
        "seeds": [_seed(result, group) for result in group.results],
        **_summary(group),
    }


def _summary(group: Group) -> dict[str, object]:
    return {
        "mean": group.mean,
        "interval": bounds(group.interval),
        "runs": group.n,
        "failed": group.failed,
        "failure_bound": stats.failure_bound(group.failed, group.n) if group.n else None,
        "mean_failed_as_chance": Group(group.results, group.metric.name, True).mean,
    }


def _seed(result: Result, group: Group) -> dict[str, object]:
    end = group.outcomes.get(result.seed)
    return {
        "seed": result.seed,
        "state": result.state,
        "outcome": end.kind if end else None,
        "final": result.final,
        "train_s": result.train_s,
        "cpu_s": result.cpu_s,
        "message": result.message,
    }


def comparison(layout: Layout) -> dict[str, Any]:
    """Give what a table and its differences to a baseline say as a plain document."""
    blocks = []
    for (head, down), block in layout.blocks.items():
        at = dict(zip((*layout.across, *layout.down), (*head, *down), strict=True))
        above = {row: difference(one) for row, one in block.above(layout.baseline).items()}
        if layout.most:
            decisions = block.decisions(layout.baseline)
            above = {row: _decision(decision) for row, decision in decisions.items()}
        arms = [_arm(layout, group, row, above.get(row)) for row, group in block.groups.items()]
        star = block.star[-1] if block.star else None
        best = block.best[-1] if block.best else None
        blocks.append({"at": at, "best": best, "better_than_every_other": star, "arms": arms})
    return {"metric": layout.metric, "by": layout.by, "baseline": layout.baseline, "blocks": blocks}


def comparison_csv(layout: Layout) -> str:
    """Write what `comparison` says as one line per cell, with plain numbers."""
    keys = [*layout.across, *layout.down]
    rows: list[list[object]] = [[*keys, layout.by, *ARM, "baseline", *DIFFERENCE]]
    for block in comparison(layout)["blocks"]:
        for arm in block["arms"]:
            above = arm["above_baseline"] or {}
            settings = [*(block["at"][key] for key in keys), arm[layout.by]]
            told = [*_spread(arm, ARM), layout.baseline, *_spread(above, DIFFERENCE)]
            rows.append([*settings, *told])
    return csv_text(rows)


def _spread(entry: Mapping[str, Any], names: Sequence[str]) -> list[object]:
    """Give the values of an entry by column, the bounds of its interval in two."""
    low, high = entry.get("interval") or (None, None)
    ends = {"low": low, "high": high, "difference_low": low, "difference_high": high}
    values = {**entry, **ends, "difference": entry.get("mean")}
    return [values.get(name) for name in names]


def _arm(layout: Layout, group: Group, row: Key, above: object) -> dict[str, object]:
    return {
        layout.by: row[-1],
        **_summary(group),
        "late": len(group.arm.late),
        "above_baseline": above,
    }


def _decision(found: Decision) -> dict[str, object]:
    """Give what a sequential test said as plain data; its interval is a confidence sequence."""
    return {
        "mean": found.interval.mean if found.interval else None,
        "confidence_sequence": bounds(found.interval),
        "n": len(found.d),
        "seeds": found.n,
        "failed": list(found.failed),
        "verdict": found.verdict,
    }


def difference(found: Comparison) -> dict[str, object]:
    """Give a paired difference with both tests as plain data."""
    return {
        "mean": found.sign * found.mean if found.d else None,
        "interval": bounds(found.difference),
        "p_t": found.p_t,
        "p_t_holm": found.adjusted,
        "p_sign_flip": found.p_flip,
        "p_better": found.better,
        "n": len(found.d),
        "verdict": SAID.get(found.verdict, found.verdict),
    }
