"""Says a verdict in words: sentences, the table of a study, its scope."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from normbench.parts.options import written
from normbench.results import verdict
from normbench.results.tables import Table, TableCell
from normbench.studies.judge import Finding, Verdict
from normbench.studies.measure import AnyPlan, measures_of
from normbench.studies.study import LR, POINTS, RECIPE, Arm, Hypothesis, Study, scale_of

STAGES = {"screen": "screened", "certify": "certified"}
SIGNS = {"greater": "> {}", "less": "< -{}", "equal": "within ±{}", "not_worse": "> -{}"}


def amount(value: float, scale: float) -> str:
    """Write an effect, in points of percent for accuracies."""
    digits = 2 if scale == POINTS else 3
    return f"{scale * value + 0.0:+.{digits}f}"


def effect(finding: Finding) -> str:
    """Write the mean effect with its interval: `+0.12 pp [-0.31, +0.55]`."""
    one, scale = finding.judged, scale_of(finding.hypothesis.metric, finding.hypothesis.effect)
    if one.mean is None:
        return "no effect known"
    text = amount(one.mean, scale) + " pp" * (scale == POINTS)
    if one.lower is not None and one.upper is not None:
        text += f" [{amount(one.lower, scale)}, {amount(one.upper, scale)}]"
    if finding.hypothesis.effect == "log_ratio":
        text += f" (x{math.exp(one.mean):.2f})"
    return text


def region(finding: Finding) -> str:
    """Write where the claim puts the effect, and the delta of the card where it was raised."""
    return _claim(finding.hypothesis)


def _claim(given: Hypothesis) -> str:
    scale = scale_of(given.metric, given.effect)
    if given.region.bounds:
        return "within [{}, {}]".format(*(amount(end, scale) for end in given.region.bounds))
    text = SIGNS[given.region.kind].format(f"{scale * given.region.delta:.4g}")
    return text + (f" (card: {given.raised:g})" if given.raised is not None else "")


def word(one: verdict.Judged) -> str:
    """Say the verdict of a hypothesis, with how it is refuted."""
    return one.verdict.upper() + (f" ({one.label})" if one.label else "")


def sentences(study: Study, verdicts: Mapping[str, Verdict], chosen: str) -> Iterator[str]:
    """Say what was found: each primary hypothesis, the scope, and the other learning rates."""
    head = verdicts[study.headline]
    yield f"{study.card.id}  {head.word.upper()}  ({STAGES[study.stage]}, {study.counted})"
    for each in head.of("primary"):
        one = each.judged
        line = f"{each.hypothesis.id}  {word(one)}  {effect(each)}, {one.n} seeds"
        yield "  ".join([f"  {line}, claim {region(each)}", *remarks(each)])
    if study.automatic:
        yield "intervals are confidence sequences and p is 1 / e-value: both hold at every look"
    yield f"scope: {scope(study)}, {chosen}"
    for note in head.notes:
        yield f"note: {note}"
    for role, other in verdicts.items():
        if role != study.headline:
            differs = "" if other.word == head.word else f"; depends on LR: {head.word} when "
            yield f"{role} lr: {other.word.upper()}{differs}{head.role * bool(differs)}"


def remarks(finding: Finding) -> list[str]:
    """Say what stands beside a verdict: failures, censored values, seeds that would settle it."""
    said = list(finding.judged.notes)
    if finding.decided:
        said.append(f"decided at {finding.decided} seeds")
    if any(failed for failed, _ in finding.failures):
        said.append("failed " + " against ".join(f"{k}/{n}" for k, n in finding.failures))
    if finding.censored:
        said.append(f"{finding.censored} censored")
    if (seeds := finding.judged.seeds) is not None:
        many = f"more than {verdict.MOST}" if seeds > verdict.MOST else f"about {seeds}"
        said.append(f"{many} seeds would settle it")
    return said


def scope(study: Study) -> str:
    """Say in which setting a verdict was found."""
    fixed = dict(study.tree["fixed"])
    if study.still:  # nothing of these is used
        for key in [key for key in fixed if key.startswith("optimizer") or key == "steps"]:
            del fixed[key]
    name, size = str(fixed.pop("data")), fixed.pop("data.train_size", None)
    shown = [f"{name} ({size:,} training images)" if size else name]
    for key in ("model", "activation", "norm", "init", "optimizer"):
        if key in fixed and not any(key in arm.levels for arm in study.arms):
            options = [
                f"{option.partition('.')[2]} {written(value)}"
                for option, value in fixed.items()
                if option.startswith(f"{key}.") and option != LR
            ]
            shown.append(" ".join([str(fixed[key]), *options]))
    factors = list(dict.fromkeys(key for arm in study.arms for key in arm.levels))
    told = {key: fixed[key] for key in fixed if key.partition(".")[0] not in (*PARTS, *factors)}
    shown += [f"{key} {written(value)}" for key, value in told.items() if _tells(key, value)]
    levels = [
        f"{key} {'/'.join(dict.fromkeys(arm.levels[key] for arm in study.arms))}" for key in factors
    ]
    return ", ".join(shown) + "; " + ", ".join(levels)


PARTS = ("model", "activation", "norm", "init", "optimizer", "data")


def _tells(key: str, value: object) -> bool:
    return key in ("batch", "steps", "epochs") or RECIPE.get(key) != value


def hypotheses(findings: Sequence[Finding], title: str) -> Table:
    """Lay out the hypotheses: effect, interval, claim, p, verdict."""
    rows = []
    for each in findings:
        one, primary = each.judged, each.hypothesis.role == "primary"
        texts = [each.hypothesis.id, each.hypothesis.role, each.hypothesis.metric, effect(each)]
        texts += [region(each), f"{one.adjusted:.4f}" if primary else "", str(one.n)]
        said = word(one) if primary else _met(each)
        rows.append(tuple(map(TableCell, [*texts, said, "; ".join(remarks(each))])))
    head = ("", "role", "metric", "effect", "claim", "p (Holm)", "seeds", "verdict", "notes")
    return Table(title, head, tuple(rows))


def _met(finding: Finding) -> str:
    if finding.hypothesis.role == "secondary" or finding.judged.mean is None:
        return ""
    low, high = finding.hypothesis.region.ends
    return "met" if low < finding.judged.mean < high else "FAILS"


def arms(plan: AnyPlan, role: str) -> Table:
    """Lay out what every arm came to: learning rate, mean, spread, failures."""
    measures, rows = measures_of(plan, role), []
    for arm in plan.study.arms:
        runs = measures.results(arm).values()
        ends = [end for run in runs if (end := run.outcome())]
        good = [end.value for end in ends if not end.failed]
        diverged = sum(end.kind == "diverged" for end in ends)
        rate = plan.rate(role, arm)
        mean = f"{100 * sum(good) / len(good):.2f}" if good else "-"
        spread = f"{100 * statistics.stdev(good):.2f}" if len(good) > 1 else "-"
        texts = [arm.name, f"{rate:g}" if rate else "", mean, spread, str(len(ends))]
        stuck = sum(end.failed for end in ends) - diverged
        rows.append(tuple(map(TableCell, [*texts, str(stuck), str(diverged)])))
    head = ("arm", "lr", "test accuracy, %", "sd", "runs", "stuck", "diverged")
    return Table(f"{role} learning rate", head, tuple(rows))


def rates(plan: AnyPlan) -> str:
    """Say how the learning rates of the headline were chosen."""
    role = plan.study.headline
    if plan.study.still:
        return "nothing is trained"
    if role == "shared":
        return f"lr {written(plan.study.lr['shared'])} for all arms"
    if role == "fixed":
        return "lr as the arms say"
    return f"lr tuned per arm over {written(list(plan.study.lr['grid']))}"


def hypothesis(given: Hypothesis) -> str:
    """Say what a hypothesis claims: `test_acc: norm bn - norm none > 0.5 pp`."""
    sides = {letter: _side(arms) for letter, arms in given.arms.items()}
    level = given.constant * scale_of(given.metric, given.effect)
    told = {
        "difference": "{a} - {b}",
        "log_ratio": "ln({a} / {b})",
        "interaction": "[{a} - {b}] - [{c} - {d}]",
        "slope": "slope of {a} over log2 " + str(given.over),
        "level": "{a}" + (f" - {level:g}" if level else ""),
    }[given.effect].format(**sides)
    unit = " pp" * (scale_of(given.metric, given.effect) == POINTS)
    return f"{given.metric}: {told} {_claim(given)}{unit}"


def _side(arms: Sequence[Arm]) -> str:
    if len(arms) == 1:
        return arms[0].name
    levels = [dict.fromkeys(arm.levels[key] for arm in arms) for key in arms[0].levels]
    return " ".join("/".join(each) for each in levels)
