"""Reads the file of a study, and refuses what it does not know. No torch, no Hydra."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.errors import FileRefused, Mistake, Refused, shown
from normbench.parts import registry
from normbench.parts.options import copied, near
from normbench.results.verdict import COMBINE, REGIONS
from normbench.runtime import storage
from normbench.settings.fields import AUTO

FOLDER, BYTES = "study", 2**17
EFFECTS = {  # how an effect is made of arms
    "difference": ("a", "b"),
    "log_ratio": ("a", "b"),
    "interaction": ("a", "b", "c", "d"),
    "slope": ("a",),
    "level": ("a",),
}
METRICS = (
    *("test_acc", "val_acc", "train_acc", "test_acc_recomputed", "mode_gap", "gen_gap"),
    *("train_loss_late", "auc", "final_over_best", "best_over_last", "shift_drop"),
)
CALLED = {  # metrics with an argument, and what it is
    "steps_to": "percent",
    "spread": "factor",
    "abs": "metric",
    "max_lr": "factor",
    "probe": "name",
    "test": "name",
    "drop": "names",
    "wrong": "seeds and factor",
}
ROLES, HEADLINES, FAILURES = (
    ("primary", "secondary", "check"),
    ("tuned", "shared"),
    ("apart", "chance"),
)
CURVES = ("auc", "steps_to", "final_over_best", "best_over_last")  # metrics of the validations
TEXTS = ("id", "title", "claim", "source", "question", "expect", "threats")
TOP = (
    *(*TEXTS, "kind", "probe", "needs", "factors", "arms", "fixed", "lr", "hypotheses"),
    *("combine", "failures", "seeds", "sizes"),
)
OF_LR = ("shared", "shared_why", "grid", "per", "at", "headline")
OF_PROBE = ("span", "rank", "sampling", "along", "timing")
OF_SEEDS = ("tune", "screen", "certify", "max")
OF_HYPOTHESIS = (
    *("id", "role", "metric", "a", "b", "c", "d", "effect", "over", "constant"),
    *("region", "delta", "bounds", "under"),
)
NEEDED = ("id", "claim", "hypotheses", "sizes")
ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
CALL = re.compile(r"(\w+)\((.*)\)")


@dataclass(frozen=True)
class Card:
    """A study as its file tells it, checked in its form.

    Args: tree: plain data; place: the name of a packaged study, or the path of a user's.
    """

    tree: Mapping[str, Any]
    place: str

    @property
    def id(self) -> str:
        """Name the study."""
        return str(self.tree["id"])

    @property
    def sizes(self) -> list[str]:
        """List its sizes."""
        return [*self.tree["sizes"]]

    @property
    def needs(self) -> list[str]:
        """List what is not built yet that its arms or metrics need."""
        return [*self.tree.get("needs", ())]

    def text(self, key: str) -> str:
        """Give one of its texts, empty where it has none."""
        value = self.tree.get(key, "")
        return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def packaged() -> list[str]:
    """List the studies that ship."""
    return sorted(path.stem for path in (registry.configs() / FOLDER).glob("*.yaml"))


def read(name: str) -> Card:
    """Read a packaged study by its name, or a user's own by its path.

    Raises: Refused with all that its file says wrongly; FileRefused if it is not readable.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise FileRefused(name, "is not a file", "normbench study list")
        try:
            return checked(storage.read_yaml(path, BYTES), name)
        except FileRefused as error:  # what is advised for damaged records would remove the folder
            fix = "plain YAML, as of normbench study show bn-fig1 --json"
            raise FileRefused(name, error.mistakes[0].why, fix) from None
    known = packaged()
    if name not in known:
        why, meant = "no study has this name", near(name, known)
        fix = f"normbench study show {meant}" if meant else "normbench study list"
        raise Refused(Mistake(name, why, fix))
    return checked(storage.read_yaml(registry.configs() / FOLDER / f"{name}.yaml", BYTES), name)


def checked(tree: Any, place: str) -> Card:
    """Check the form of a study: its keys, the words it chooses, and that it is whole.

    Raises: Refused with all mistakes.
    """
    if not isinstance(tree, dict):
        raise Refused(Mistake(place, "is not a map of settings", "normbench study show bn-fig1"))
    tree = {**tree, "seeds": {"screen": AUTO}} if tree.get("seeds") == AUTO else tree
    if mistakes := [*_mistakes(tree, place)]:
        raise Refused(*mistakes)
    return Card(copied(tree), place)


def calls(metric: str) -> tuple[str, str]:
    """Split `spread(test_acc, init.gain)` into its name and what stands in brackets."""
    found = CALL.fullmatch(metric.replace(" ", ""))
    return (found[1], found[2]) if found else (metric, "")


def _mistakes(tree: Mapping[str, Any], place: str) -> Iterator[Mistake]:
    """Say what is wrong with the form of a study."""
    yield from _unknown(tree, TOP, place, "")
    for key in NEEDED:
        if not tree.get(key):
            yield Mistake(place, f"has no {key}", f"{key}: …    (see normbench study show bn-fig1)")
    name = tree.get("id")
    if name and not ID.fullmatch(str(name)):
        yield Mistake(f"id={shown(name)}", "is not lower case with hyphens", "id: my-study")
    maps = {"lr": OF_LR, "seeds": OF_SEEDS, "probe": OF_PROBE}
    for key in ("factors", "arms", "fixed", "lr", "seeds", "sizes", "probe"):
        value = tree.get(key, {})
        if not isinstance(value, dict):
            yield Mistake(f"{key}={shown(value)}", "is not a map", f"{key}: {{…}}")
        elif key in maps:
            yield from _unknown(value, maps[key], place, f"{key}.")
    yield from _choices(tree)
    sizes = tree.get("sizes")
    if isinstance(sizes, dict) and sizes and "quick" not in sizes:
        yield Mistake(f"{place}: sizes", "has no quick", "sizes: {quick: {steps: 300}}")
    for size in sizes.values() if isinstance(sizes, dict) else ():
        for key, allowed in {"lr": OF_LR, "seeds": OF_SEEDS, "delta": _ids(tree)}.items():
            given = size.get(key, {}) if isinstance(size, dict) else {}
            yield from _unknown(given if isinstance(given, dict) else {}, allowed, place, f"{key}.")
    yield from _hypotheses(tree.get("hypotheses"), place)
    yield from _measured(tree)


def _ids(tree: Mapping[str, Any]) -> list[str]:
    found = tree.get("hypotheses")
    return [str(each.get("id")) for each in found or () if isinstance(each, dict)]


def _choices(tree: Mapping[str, Any]) -> Iterator[Mistake]:
    lr = tree.get("lr")
    words: list[tuple[str, Any, tuple[str, ...]]]
    words = [("combine", tree.get("combine", "each"), COMBINE)]
    words += [("kind", tree.get("kind", "train"), ("train", "probe"))]
    words += [("failures", tree.get("failures", "apart"), FAILURES)]
    if isinstance(lr, dict):
        words += [("lr.headline", lr.get("headline", "tuned"), HEADLINES)]
    for key, value, among in words:
        yield from _one_of(key, value, among)


def _hypotheses(found: Any, place: str) -> Iterator[Mistake]:
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        if found:
            yield Mistake(f"{place}: hypotheses", "is not a list of maps", "hypotheses: [{id: …}]")
        return
    seen: set[str] = set()
    for each in found:
        name = str(each.get("id", ""))
        if not ID.fullmatch(name) or name in seen:
            yield Mistake(f"hypotheses: id={name}", "is not a name of its own", "id: post-pre")
        seen.add(name)
        yield from _unknown(each, OF_HYPOTHESIS, place, f"{name}.")
        yield from _one_of(f"{name}.role", each.get("role", "primary"), ROLES)
        yield from _one_of(f"{name}.region", each.get("region"), REGIONS)
        if "under" in each:
            yield from _one_of(f"{name}.under", each["under"], HEADLINES)
        effect = each.get("effect", "difference")
        yield from _one_of(f"{name}.effect", effect, tuple(EFFECTS))
        called, argument = calls(str(each.get("metric", "test_acc")))
        yield from _one_of(
            f"{name}.metric", called, (*CALLED,) if argument else (*METRICS, "max_lr")
        )
        for letter in EFFECTS.get(effect, ()):
            if not isinstance(each.get(letter), dict):
                yield Mistake(f"{name}.{letter}", "names no arms", f"{letter}: {{norm: bn}}")
        yield from _sized(name, each)


def _measured(tree: Mapping[str, Any]) -> Iterator[Mistake]:
    """Say where a metric is of trained nets and the study trains none."""
    given = tree.get("hypotheses") if tree.get("kind") == "probe" else ()
    for each in given if isinstance(given, list) else ():
        metric = str(each.get("metric", "test_acc")) if isinstance(each, dict) else "probe("
        if "probe(" not in metric:
            why = "is not for a study of kind probe, which trains nothing"
            fix = "metric: probe(growth/activation)"
            yield Mistake(f"{each.get('id')}.metric={shown(metric)}", why, fix)


def _sized(name: str, each: Mapping[str, Any]) -> Iterator[Mistake]:
    """Say whether the region lacks the number that makes it."""
    if each.get("region") == "band":
        bounds = each.get("bounds")
        listed = bounds if isinstance(bounds, list) and all(map(_is_number, bounds)) else []
        if len(listed) != 2 or listed[0] >= listed[1]:
            yield Mistake(f"{name}.bounds={shown(bounds)}", "is no interval", "bounds: [-0.1, 0.1]")
    elif not _is_number(each.get("delta", 0)) or (
        each.get("delta", 0) <= 0 and each.get("role") != "check"
    ):
        why = "is the smallest effect that matters, which is above 0"
        yield Mistake(f"{name}.delta={shown(each.get('delta'))}", why, "delta: 0.5")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unknown(
    found: Mapping[str, Any], allowed: Iterable[str], place: str, prefix: str
) -> Iterator[Mistake]:
    for key in found:
        if key not in allowed:
            fix = near(str(key), allowed)
            listed = f"{prefix}{fix}" if fix else ", ".join(allowed)
            yield Mistake(f"{place}: {prefix}{shown(key)}", "is not a key of a study", listed)


def _one_of(key: str, value: Any, among: tuple[str, ...]) -> Iterator[Mistake]:
    if value not in among:
        meant = near(str(value), among)
        fix = f"{key}={meant or among[0]}"
        why = f"is none of {', '.join(among)}"
        yield Mistake(f"{key}={shown(value)}", why, fix)
