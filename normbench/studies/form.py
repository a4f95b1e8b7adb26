"""What the file of a study may say: its keys, its words, and what is wrong with one. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from normbench.errors import Mistake, shown
from normbench.parts.options import near
from normbench.results.verdict import COMBINE, REGIONS
from normbench.settings.fields import AUTO

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
PROBED = (  # what `probe(NAME)` may name
    *("parameters", "rank", "weight_rank", "sampling/mean", "sampling/std", "saturated", "zeros"),
    *("linear_zone", "weight_var_fan_in", "cka", "drift", "linear_drift", "settled"),
    *("growth/activation", "growth/gradient", "growth/weight_gradient", "growth/relative_gradient"),
    *("growth/drift", "slope/settled", "ln_image_s", "ln_pass"),
)
CURVES = ("auc", "steps_to", "final_over_best", "best_over_last")  # metrics of the validations
TEXTS = ("id", "title", "claim", "source", "question", "expect", "threats")
TOP = (
    *(*TEXTS, "kind", "probe", "factors", "arms", "fixed", "lr", "hypotheses"),
    *("combine", "failures", "seeds", "sizes"),
)
OF_LR = ("shared", "shared_why", "grid", "per", "at", "headline")
OF_PROBE = ("span", "rank", "sampling", "along", "timing")
OF_SEEDS = ("tune", "screen", "certify", "max")
OF_HYPOTHESIS = (
    *("id", "role", "metric", "a", "b", "c", "d", "effect", "over", "constant"),
    *("region", "delta", "bounds", "under"),
)
MAPS = {  # keys whose value is a map, and one that works
    "factors": "factors: {norm: [bn, gn]}",
    "arms": "arms: {bn: {norm: bn}, gn: {norm: gn}}",
    "fixed": "fixed: {batch: 32}",
    "lr": "lr: {shared: 0.03}",
    "seeds": "seeds: {screen: 12}",
    "sizes": "sizes: {quick: {steps: 300}}",
    "probe": "probe: {span: [5, 20]}",
    "delta": "delta: {post-pre: 0.5}",
}
NEEDED = ("id", "claim", "hypotheses", "sizes")
ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
CALL = re.compile(r"(\w+)\((.*)\)")


def calls(metric: str) -> tuple[str, str]:
    """Split `spread(test_acc, init.gain)` into its name and what stands in brackets."""
    found = CALL.fullmatch(metric.replace(" ", ""))
    return (found[1], found[2]) if found else (metric, "")


def mistakes(tree: Mapping[str, Any], place: str) -> Iterator[Mistake]:
    """Say what is wrong with the form of a study."""
    yield from _unknown(tree, TOP, place, "")
    for key in NEEDED:
        if not tree.get(key):
            yield Mistake(place, f"has no {key}", f"{key}: …    (see normbench study show bn-fig1)")
    name = tree.get("id")
    if name and not ID.fullmatch(str(name)):
        yield Mistake(f"id={shown(name)}", "is not lower case with hyphens", "id: my-study")
    for key in ("factors", "arms", "fixed", "sizes"):
        yield from _map(tree, key, None, place)
    yield from _lr_and_seeds(tree, place)
    yield from _probe(tree, place)
    yield from _choices(tree)
    yield from _sizes(tree, place)
    yield from _hypotheses(tree.get("hypotheses"), place)
    yield from _measured(tree)


def _map(
    tree: Mapping[str, Any], key: str, allowed: Iterable[str] | None, place: str
) -> Iterator[Mistake]:
    value = tree.get(key, {})
    if not isinstance(value, dict):
        yield Mistake(f"{key}={shown(value)}", "is not a map", MAPS[key])
    elif allowed:
        yield from _unknown(value, allowed, place, f"{key}.")


def _lr_and_seeds(tree: Mapping[str, Any], place: str) -> Iterator[Mistake]:
    yield from _map(tree, "lr", OF_LR, place)
    yield from _map(tree, "seeds", OF_SEEDS, place)
    lr = tree.get("lr")
    for key, kind, fix in (("per", list, "per: [norm]"), ("at", dict, "at: {norm: bn}")):
        value = lr.get(key, kind()) if isinstance(lr, dict) else kind()
        if not isinstance(value, kind):
            yield Mistake(f"lr.{key}={shown(value)}", f"is not a {kind.__name__}", fix)


def _probe(tree: Mapping[str, Any], place: str) -> Iterator[Mistake]:
    yield from _map(tree, "probe", OF_PROBE, place)
    asked = tree.get("probe")
    asked = asked if isinstance(asked, dict) else {}
    span, along = asked.get("span", [1, 2]), asked.get("along", 1)
    if not (isinstance(span, list) and [*map(type, span)] == [int, int] and 1 <= span[0] < span[1]):
        yield Mistake(f"probe.span={shown(span)}", "is no span of layers", "span: [5, 20]")
    if type(along) is not int or along < 1:
        yield Mistake(f"probe.along={shown(along)}", "is no number of looks", "along: 20")


def _sizes(tree: Mapping[str, Any], place: str) -> Iterator[Mistake]:
    """Say what is wrong with what the sizes change."""
    sizes, ids = tree.get("sizes"), _ids(tree)
    if isinstance(sizes, dict) and sizes and "quick" not in sizes:
        yield Mistake(f"{place}: sizes", "has no quick", MAPS["sizes"])
    for name, size in sizes.items() if isinstance(sizes, dict) else ():
        if not isinstance(size, dict | None):
            yield Mistake(f"sizes.{name}={shown(size)}", "is not a map", MAPS["sizes"])
            continue
        given = {**(size or {})}
        if given.get("seeds") == AUTO:
            del given["seeds"]
        yield from _lr_and_seeds(given, place)
        yield from _map(given, "delta", ids, place)
        numbers = {"delta_floor": given.get("delta_floor", 0.0)}
        if isinstance(given.get("delta"), dict):
            numbers |= {f"delta.{key}": value for key, value in given["delta"].items()}
        for key, value in numbers.items():
            if not _is_number(value) or value < 0:
                yield Mistake(f"{key}={shown(value)}", "is no number from 0 on", f"{key}=0.5")
        yield from _unknown(given.get("without") or {}, ids, place, "without: ")


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
        yield from _metric(f"{name}.metric", str(each.get("metric", "test_acc")))
        for letter in EFFECTS.get(effect, ()):
            if not isinstance(each.get(letter), dict):
                yield Mistake(f"{name}.{letter}", "names no arms", f"{letter}: {{norm: bn}}")
        yield from _sized(name, each)


def _metric(place: str, metric: str) -> Iterator[Mistake]:
    called, argument = calls(metric)
    if called in ("abs", "spread") and argument:
        yield from _metric(place, argument.rpartition(",")[0] or argument)
    elif called == "probe" and argument and argument not in PROBED:
        meant = near(argument, PROBED) or "growth/activation"
        why = f"is no quantity of a probe: {', '.join(PROBED)}"
        yield Mistake(f"{place}={metric}", why, f"{place}=probe({meant})")
    else:
        yield from _one_of(place, called, (*CALLED,) if argument else (*METRICS, "max_lr"))


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
