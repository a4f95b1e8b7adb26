"""The folder of a study: its plan, its runs, its table, its verdict, its figure. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normbench.errors import FileRefused
from normbench.results import tables
from normbench.runtime import storage
from normbench.studies import documents, wording
from normbench.studies.judge import Verdict
from normbench.studies.measure import AnyPlan
from normbench.studies.study import Study, scale_of

PLAN, RUNS, TABLE, VERDICT, FIGURE, PEEKED = (
    *("plan.yaml", "runs.csv", "table.md", "verdict.json", "forest.svg", "exploratory"),
)
KEYS = {"study", "size", "status", "verdict", "hypotheses", "lr", "scope", "core_seconds", "hash"}
BYTES = 2**24
DIGITS = 12  # of a hash in the name of a folder


def place(outputs: str, study: Study) -> Path:
    """Give the folder of a study at a size and stage."""
    name = study.hash[:DIGITS] + "-certified" * (study.stage == "certify")
    return Path(outputs) / "studies" / study.card.id / name


def keep_plan(path: Path, study: Study) -> None:
    """Write the plan before anything is run, or check that the one there is the same.

    Raises: FileRefused if a stored plan is not what its hash says.
    """
    file = path / PLAN
    if file.is_file():
        stored = storage.read_yaml(file, BYTES)
        if not isinstance(stored, dict) or stored != {"hash": study.hash, "study": _plain(study)}:
            fix = f"rm {file}    (then the same command again, which writes it anew)"
            raise FileRefused(str(file), "was changed since it was planned", fix)
        return
    storage.make_directory(path)
    storage.write_yaml(file, {"hash": study.hash, "study": _plain(study)})


def peek(path: Path) -> None:
    """Mark a study as looked at before its end, for good."""
    storage.write_atomic(path / PEEKED, "looked at before all runs were done\n")


def status(path: Path, study: Study, original: bool) -> str:
    """Say what a verdict is worth: screened, certified, variant or exploratory."""
    if (path / PEEKED).is_file():
        return "exploratory"
    return wording.STAGES[study.stage] if original else "variant"


def write(path: Path, plan: AnyPlan, verdicts: Mapping[str, Verdict], state: str) -> dict[str, Any]:
    """Write all that a study came to, and return the document of its verdict.

    Raises: MachineError if the storage fails.
    """
    found = documents.verdict(plan, verdicts, state)
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    shown = []
    for role, each in verdicts.items():
        shown.append(tables.markdown(wording.hypotheses(each.findings, f"{role} learning rate")))
        if plan.study.kind == "train":
            shown.append(tables.markdown(wording.arms(plan, role)))
    storage.write_atomic(path / RUNS, tables.csv_text(documents.runs(plan)))
    storage.write_atomic(path / TABLE, "\n".join(shown))
    if not _drawn(path, text):
        storage.write_atomic(path / FIGURE, _forest(plan.study, verdicts[plan.study.headline]))
    storage.write_atomic(path / VERDICT, text)  # last: it says that the others are there
    return found


def _drawn(path: Path, text: str) -> bool:
    """Tell whether the figure there is of this verdict, which holds all that it shows."""
    kept = path / VERDICT
    whole = kept.is_file() and (path / FIGURE).is_file()
    return whole and storage.read_bytes(kept, BYTES) == text.encode()


def read(path: Path) -> dict[str, Any]:
    """Read the verdict of a study back.

    Raises: FileRefused if it is not there or not one.
    """
    found = storage.read_json(path / VERDICT, BYTES)
    whole = isinstance(found, dict) and found.get("schema") == 1
    if not whole or not {*found} >= KEYS:
        raise storage.damaged(path / VERDICT, "is not a verdict of schema 1")
    return dict(found)


def finished(outputs: str) -> list[dict[str, Any]]:
    """Read the verdicts of all studies below a folder of outputs, by name and size."""
    files = sorted((Path(outputs) / "studies").glob(f"*/*/{VERDICT}"))
    found = [read(file.parent) for file in files]
    return sorted(found, key=lambda each: (str(each["study"]), str(each.get("size"))))


def _plain(study: Study) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dict(study.tree)))
    return plain


def _forest(study: Study, found: Verdict) -> bytes:
    """Draw the effects with their intervals over the regions of the claims."""
    from normbench.display import drawing, forest  # imports matplotlib

    rows = []
    for each in found.findings:
        one, given = each.judged, each.hypothesis
        if one.mean is None or one.lower is None or one.upper is None:
            continue
        scale = scale_of(given.metric, given.effect)
        middle, low, high = (scale * value for value in (one.mean, one.lower, one.upper))
        ends = tuple(scale * end for end in given.region.ends)
        text = f"{given.id}  {one.verdict if given.role == 'primary' else given.role}"
        rows.append(forest.Row(text, middle, low, high, (ends[0], ends[1])))
    return drawing.encoded(forest.forest(study.card.text("title") or study.card.id, rows), "svg")
