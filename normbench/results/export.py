"""Recorded runs as plain documents and as CSV, numbers as fractions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from normbench.results.groups import SEEDS, Group, Result
from normbench.results.tables import csv_text


def documents(results: Sequence[Result], metric: str = "test/accuracy") -> list[dict[str, object]]:
    """Give one plain document per configuration, its seeds together, numbers as fractions."""
    folders: dict[str, list[Result]] = {}
    for result in results:
        folders.setdefault(str(PurePath(result.directory).parent), []).append(result)
    return [_document(folder, Group(runs, metric)) for folder, runs in folders.items()]


def csv(results: Sequence[Result], keys: Sequence[str]) -> str:
    """Write one line per run, sorted by name, with plain numbers: accuracy as a fraction.

    The same results give the same bytes.
    """
    metrics = sorted({metric for result in results for metric in result.final})
    rows: list[list[object]] = [["run", *keys, "seed", "state", *metrics, "message"]]
    for result in sorted(results, key=lambda result: (result.name, result.directory)):
        settings = [result.settings.get(key, "") for key in keys]
        values = [result.final.get(metric) for metric in metrics]
        rows.append([result.name, *settings, result.seed, result.state, *values, result.message])
    return csv_text(rows)


def _document(folder: str, group: Group) -> dict[str, object]:
    settings = group.results[0].settings
    return {
        "dir": folder,
        "state": group.state,
        "config": {key: value for key, value in settings.items() if key not in SEEDS},
        "seeds": [
            {
                "seed": result.seed,
                "state": result.state,
                "final": result.final,
                "train_s": result.train_s,
                "message": result.message,
            }
            for result in group.results
        ],
        "mean": group.mean,
        "interval": [group.interval.low, group.interval.high] if group.interval else None,
    }
