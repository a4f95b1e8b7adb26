"""Makes a study of a card at one of its sizes: arms, hypotheses, and what the hash is over."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from normbench.errors import Mistake, Refused, shown
from normbench.parts.options import copied, leaves, near, written
from normbench.results.verdict import Region, fewest_seeds
from normbench.settings.fields import AUTO
from normbench.studies import form
from normbench.studies.card import Card
from normbench.studies.form import EFFECTS
from normbench.studies.overrides import GRID, KEYED, named_otherwise
from normbench.studies.study import POINTS, RECIPE, Arm, Hypothesis, Study, scale_of

SMALL = {"data.train_size": 3500}  # mnist5k, at size quick
SEEDS = {"tune": 3, "screen": 8, "certify": 12, "max": 40}
MOST = 1000  # seeds of an arm
NUMBERED = {"steps_to": "steps_to(88)", "wrong": "wrong(5, norm)"}  # metrics that begin with one
FLOOR = 1.0  # points below which no accuracy is compared at size quick
SIZE_KEYS = ("delta", "delta_floor", "seeds", "lr", "without")


def resolve(card: Card, size: str, stage: str = "screen") -> Study:
    """Make a study of a card at a size.

    Raises: Refused with all mistakes, such as arms that there are none of, or a plan that cannot
    decide.
    """
    if size not in card.sizes:
        why = f"{card.id} has the sizes {', '.join(card.sizes)}"
        raise Refused(Mistake(f"--size {shown(size)}", why, f"--size {card.sizes[0]}"))
    tree = _at_size(card, size)
    if mistakes := [*_levelless(tree["factors"])]:
        raise Refused(*mistakes)
    arms = _arms(tree)
    made = [_hypothesis(each, tree, arms, size) for each in tree["hypotheses"]]
    mistakes = [each for each in made if isinstance(each, Mistake)]
    lr = tree["lr"]
    for key in [*lr.get("per", ()), *lr.get("at", ())]:
        if key not in tree["factors"]:
            why = f"is not a factor: {', '.join(tree['factors'])}"
            mistakes.append(Mistake(f"lr.per={key}", why, f"lr.per=[{[*tree['factors']][0]}]"))
    mistakes += _rates(lr, arms)
    said = {key: value for arm in arms for key, value in arm.settings.items() if key in KEYED}
    mistakes += [named_otherwise(key, value) for key, value in said.items()]
    hypotheses = tuple(each for each in made if isinstance(each, Hypothesis))
    if not mistakes:
        mistakes += _undecidable(tree, stage, hypotheses)
    if mistakes:
        raise Refused(*mistakes)
    del tree["factors"]
    tree["arms"] = {arm.name: dict(arm.settings) for arm in arms}
    return Study(card, size, stage, tree, arms, hypotheses, lr)


def _levelless(factors: Mapping[str, Any]) -> Iterator[Mistake]:
    """Say where a factor has no levels, or a named one no settings."""
    for factor, levels in factors.items():
        if levels in ([], {}, None):
            yield Mistake(f"{factor}={written(levels)}", "has no levels", "norm: [bn, gn]")
        for name, level in levels.items() if isinstance(levels, dict) else ():
            if not isinstance(level, dict | None):
                why = "is not a map of settings"
                fix = f"{name}: {{norm: bn}}"
                yield Mistake(f"{factor}.{name}={shown(level)}", why, fix)


def _rates(lr: Mapping[str, Any], arms: Sequence[Arm]) -> Iterator[Mistake]:
    """Say where a learning rate is no number, or an arm has none."""
    shared, grid = lr.get("shared", 1.0), lr.get("grid", [1.0, 2.0])
    by_level = shared if isinstance(shared, dict) else {}
    lacking = [arm.name for arm in arms if not by_level.keys() & {*arm.levels.values()}]
    if by_level and lacking:
        yield Mistake("lr.shared", f"has no value for {lacking[0]}", "lr.shared=0.03")
    rates = list(by_level.values()) or [shared]
    for key, values, least, fix in (("shared", rates, 1, "0.03"), ("grid", grid, 2, GRID)):
        if not isinstance(values, list) or len(values) < least:
            yield Mistake(f"lr.{key}={written(lr[key])}", "is no list of rates", f"lr.{key}={fix}")
        elif not all(type(value) in (int, float) and value > 0 for value in values):
            yield Mistake(f"lr.{key}={written(lr[key])}", "is not above 0", f"lr.{key}={fix}")


def _at_size(card: Card, size: str) -> dict[str, Any]:
    """Apply what a size says, and leave out the texts."""
    tree = copied({key: value for key, value in card.tree.items() if key not in form.TEXTS})
    given = tree.pop("sizes")[size] or {}
    factors = dict(tree.get("factors", {}))
    if "arms" in tree:
        factors["arm"] = tree.pop("arms")
    fixed = {**RECIPE, **(SMALL if size == "quick" else {})}
    own = _flat(tree.get("fixed", {}))
    if own.get("optimizer", "sgd") != "sgd":  # the others have no momentum of that name
        fixed = {key: value for key, value in fixed.items() if not key.startswith("optimizer.")}
    fixed |= own
    lr, seeds = {**tree.get("lr", {})}, {**SEEDS, **tree.get("seeds", {})}
    for key, value in given.items():
        if key == "lr":
            lr |= value
        elif key == "seeds":
            seeds |= {"screen": AUTO} if value == AUTO else value
        elif key in factors:
            factors[key] = _levels(factors[key], value)
        elif key not in SIZE_KEYS:
            fixed |= _flat({key: value})
    lr.pop("shared_why", None)
    without = given.get("without", ())
    return {
        "id": card.id,
        "size": size,
        "kind": tree.get("kind", "train"),
        "probe": tree.get("probe", {}),
        "factors": factors,
        "fixed": fixed,
        "lr": lr,
        "seeds": {key: seeds[key] for key in SEEDS if key != "max" or AUTO in seeds.values()},
        "hypotheses": [each for each in tree["hypotheses"] if each["id"] not in without],
        "combine": tree.get("combine", "each"),
        "failures": tree.get("failures", "apart"),
        "delta": given.get("delta", {}),
        "delta_floor": given.get("delta_floor", FLOOR if size == "quick" else 0.0),
    }


def _levels(levels: Any, chosen: Any) -> Any:
    """Choose among the named levels of a factor, or take other ones."""
    if isinstance(levels, dict) and isinstance(chosen, list):
        return {name: levels[name] for name in chosen if name in levels}
    return chosen


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Name a part by its group alone: `optimizer: {name: sgd, momentum: 0.9}`."""
    return {key.removesuffix(".name"): value for key, value in leaves(tree)}


def _arms(tree: Mapping[str, Any]) -> tuple[Arm, ...]:
    """List every combination of the levels of all factors."""
    choices = []
    for factor, levels in tree["factors"].items():
        if isinstance(levels, dict):
            named = [(str(name), _flat(settings or {})) for name, settings in levels.items()]
        else:
            values = levels if isinstance(levels, list) else [levels]
            named = [(written(value), {factor: value}) for value in values]
        choices.append([(factor, name, settings) for name, settings in named])
    arms = []
    for combination in itertools.product(*choices):
        settings = dict(tree["fixed"])
        for _, _, own in combination:
            settings |= own
        arms.append(Arm({factor: name for factor, name, _ in combination}, settings))
    return tuple(arms)


def _hypothesis(
    given: Mapping[str, Any], tree: Mapping[str, Any], arms: Sequence[Arm], size: str
) -> Hypothesis | Mistake:
    """Find the arms of a hypothesis, and its region in plain numbers."""
    name, effect = given["id"], given.get("effect", "difference")
    chosen: dict[str, tuple[Arm, ...]] = {}
    for letter in EFFECTS[effect]:
        found = _selected(f"{name}.{letter}", given[letter], tree["factors"], arms)
        if isinstance(found, Mistake):
            return found
        chosen[letter] = found
    over, metric = given.get("over"), str(given.get("metric", "test_acc"))
    if mistake := _unmeasurable(f"{name}.metric={metric}", metric, effect, over, tree["factors"]):
        return mistake
    asked = given.get("delta", 0.0)
    delta = tree["delta"].get(name, asked)
    scale = scale_of(metric, effect)
    floored = scale == POINTS and effect != "slope" and name not in tree["delta"]
    floored = floored and given.get("role") != "check"
    if floored and size == "quick":
        delta = max(delta, tree["delta_floor"])
    bounds = given.get("bounds")
    region = Region(
        given["region"], delta / scale, tuple(x / scale for x in bounds) if bounds else None
    )
    return Hypothesis(
        name,
        given.get("role", "primary"),
        metric,
        effect,
        chosen,
        region,
        over,
        given.get("constant", 0.0) / scale,
        asked if delta != asked else None,
        given.get("under"),
    )


def _unmeasurable(
    place: str, metric: str, effect: str, over: str | None, factors: Mapping[str, Any]
) -> Mistake | None:
    """Say where a metric has not the number or the factor that it needs."""
    called, argument = form.calls(metric)
    number = argument.split(",")[0]
    if called in NUMBERED and not (number.replace(".", "", 1).isdigit() and float(number) >= 1):
        return Mistake(place, f"{number} is no number from 1 on", f"metric: {NUMBERED[called]}")
    factor = over if effect == "slope" else argument.rpartition(",")[2]
    if (effect == "slope" or called in ("spread", "wrong")) and factor not in factors:
        why = f"{factor or 'nothing'} is not a factor: {', '.join(factors)}"
        return Mistake(place, why, f"over: {[*factors][0]}")
    return None


def _selected(
    place: str, wanted: Mapping[str, Any], factors: Mapping[str, Any], arms: Sequence[Arm]
) -> tuple[Arm, ...] | Mistake:
    for key, value in wanted.items():
        if key not in factors:
            fix = f"{near(key, factors) or [*factors][0]}: …"
            return Mistake(f"{place}: {key}", f"is not a factor: {', '.join(factors)}", fix)
        levels = list(dict.fromkeys(arm.levels[key] for arm in arms))
        asked = [written(each) for each in (value if isinstance(value, list) else [value])]
        for level in asked:
            if level not in levels:
                why = f"no arm has it; levels of {key} are {', '.join(levels)}"
                return Mistake(f"{place}: {key}={level}", why, f"{key}: {levels[0]}")
        arms = [arm for arm in arms if arm.levels[key] in asked]
    return tuple(arms)


def _undecidable(
    tree: Mapping[str, Any], stage: str, hypotheses: Sequence[Hypothesis]
) -> Iterator[Mistake]:
    """Say whether the test could not reach alpha however clear the effects are."""
    count, seeds = sum(each.role == "primary" for each in hypotheses), tree["seeds"]
    enough, key = fewest_seeds(count), "max" if seeds[stage] == AUTO else stage
    if key == "max" and tree["kind"] == "probe":
        fix = f"seeds.{stage}={SEEDS['screen']}"
        yield Mistake(f"seeds.{stage}=auto", "is for studies that train", fix)
    for name, least in ((key, enough), ("tune", 1)):
        if type(seeds[name]) is not int or seeds[name] > MOST:
            why = f"is not a number of seeds up to {MOST}"
        elif seeds[name] >= least:
            continue
        else:
            why = f"cannot decide {count} primary hypotheses: 2^-n must be at most 0.025 / {count}"
            why = why if name == key else "is below 1"
        yield Mistake(f"seeds.{name}={shown(seeds[name])}", why, f"seeds.{name}={least}")
