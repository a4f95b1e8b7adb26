"""Evaluations of a run, kept in its folder: one file each, by what was asked. No torch."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normbench.errors import FileRefused, pasted, shown
from normbench.rows import Value, finite
from normbench.runs.reader import EVALUATION
from normbench.runtime import storage
from normbench.settings.schema import Config, evaluation_name

BYTES = 2**26  # more is not read back
OF_WEIGHTS = ("val/", "test/", "gap/")  # metrics of the weights: others are of the training
OWN = "own"  # the evaluation of the training itself


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Args: asked: in which settings it differs from that of the training; state_sha256: digest of
        the weights and the optimizer; values: by metric, None where not finite; right: for each
        test, named as in its metric and empty for the test images as they are, which of them were
        classified rightly, packed to bits as `numpy.packbits` does.
    """

    asked: Mapping[str, Any]
    state_sha256: str
    values: Mapping[str, float | None]
    right: Mapping[str, bytes] = field(default_factory=dict)

    def over(self, final: Mapping[str, float | None]) -> dict[str, float | None]:
        """Put its values in the place of those that the training found in its own evaluation.

        By the same statistics and data these hold further.
        """
        anew = "eval_stats" in self.asked or "data" in self.asked
        gone = OF_WEIGHTS if anew else ()
        kept = {key: value for key, value in final.items() if not key.startswith(gone)}
        return {**kept, **self.values}


def path(config: Config) -> Path:
    """Return where the evaluation lies that a config asks for."""
    return config.directory / f"{EVALUATION}{config.evaluation_name or OWN}.json"


def write(config: Config, made: Evaluation) -> None:
    """Keep an evaluation; that of the training has no values, for they stand in its rows.

    Raises: MachineError if the storage fails; FileRefused if the file is a symbolic link.
    """
    document = {
        "schema": 1,
        "evaluation": made.asked,
        "state_sha256": made.state_sha256,
        "values": {name: finite(value) for name, value in sorted(made.values.items())},
        "right": {name: base64.b64encode(bits).decode() for name, bits in made.right.items()},
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    storage.write_atomic(path(config), text + "\n")


def read(config: Config, state_sha256: str | None) -> Evaluation | None:
    """Read what a config asks for; None if it was not made, or of other weights.

    Raises: FileRefused if the file is damaged.
    """
    place = path(config)
    made = _read(place) if place.is_file() else None
    if made and made.asked != config.evaluation:
        raise _unnamed(place, made)
    return made if made and made.state_sha256 == state_sha256 else None


def all_of(directory: Path, state_sha256: str | None) -> dict[str, Evaluation]:
    """Read all evaluations of the weights of a run, without its own, by what names them.

    Raises: FileRefused if a file is damaged.
    """
    found = {}
    for name in storage.names(directory):
        stem = name.removeprefix(EVALUATION).removesuffix(".json")
        if name == f"{EVALUATION}{stem}.json" and stem != OWN:
            made = _read(directory / name)
            if evaluation_name(made.asked) != stem:
                raise _unnamed(directory / name, made)
            if made.state_sha256 == state_sha256:
                found[stem] = made
    return found


def right(directory: Path, name: str, test: str = "") -> bytes | None:
    """Read which images of a test a run got right, in the evaluation of a name, packed to bits.

    Raises: FileRefused if the file is damaged.
    """
    place = directory / f"{EVALUATION}{name or OWN}.json"
    return _read(place).right.get(test) if place.is_file() else None


def _read(place: Path) -> Evaluation:
    document = storage.read_json(place, BYTES)
    why = _unlike(document)
    if why:
        raise _damaged(place, why)
    right = {name: base64.b64decode(bits) for name, bits in document["right"].items()}
    asked, digest = document["evaluation"], document["state_sha256"]
    return Evaluation(asked, digest, document["values"], right)


def _unnamed(place: Path, made: Evaluation) -> FileRefused:
    return _damaged(place, f"is of {shown(json.dumps(made.asked))}, which its name does not say")


def _damaged(place: Path, why: str) -> FileRefused:
    fix = f"rm {pasted(place)}    (then the same command again, which judges anew)"
    return FileRefused(str(place), why, fix)


def _unlike(document: Any) -> str | None:
    """Say what of an evaluation is not as `write` makes it."""
    if not isinstance(document, dict) or document.get("schema") != 1:
        return "is not an evaluation of schema 1"
    asked, values, right = (document.get(key) for key in ("evaluation", "values", "right"))
    if not isinstance(asked, dict) or not isinstance(document.get("state_sha256"), str):
        return "does not say what was asked, and of which weights"
    if not isinstance(values, dict) or not all(map(_is_number, values.values())):
        return "values are not finite numbers"
    try:
        for bits in right.values():  # type: ignore[union-attr]
            base64.b64decode(bits, validate=True)
    except (AttributeError, TypeError, ValueError):
        return "right does not hold packed bits"
    return None


def _is_number(value: Value) -> bool:
    return value is None or (type(value) in (int, float) and finite(value) == value)
