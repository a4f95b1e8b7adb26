"""What a study came to as plain data: its verdict, its findings, its runs. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from normbench.results.lr_search import document as search_document
from normbench.studies import wording
from normbench.studies.judge import Finding, Verdict
from normbench.studies.measure import OF_RUN, AnyPlan, measures_of
from normbench.studies.probes import ProbePlan
from normbench.sweeps import folder, traces


def verdict(plan: AnyPlan, verdicts: Mapping[str, Verdict], state: str) -> dict[str, Any]:
    """Give the verdict of a study as plain data; the same runs give the same."""
    study = plan.study
    results = [run for role in study.roles for arm in study.arms for run in plan.results(role, arm)]
    versions = folder.versions(results)
    tried = [run for each in plan.searches.values() for runs in each.runs.values() for run in runs]
    every = {run.directory: run for run in [*results, *tried]}
    spent = {place: traces.core_seconds(run) or 0.0 for place, run in every.items()}
    if isinstance(plan, ProbePlan):
        spent = plan.spent
    head = verdicts[study.headline]
    mixed = len(versions) > 1 and state == "certified"  # of versions, which is not certified
    return {
        "schema": 1,
        "study": study.card.id,
        "hash": study.hash,
        "size": study.size,
        "status": "exploratory" if mixed else state,
        "title": study.card.text("title"),
        "claim": study.card.text("claim"),
        "source": study.card.text("source"),
        "expect": study.card.text("expect"),
        "seeds": {"count": plan.seeds, "stream": study.stage, "most": study.seeds},
        "arms": [arm.name for arm in study.arms],
        "lr": _rates(plan),
        "hypotheses": {
            role: [finding(each) for each in found.findings] for role, found in verdicts.items()
        },
        "combine": study.tree["combine"],
        "words": {role: found.word for role, found in verdicts.items()},
        "notes": {role: list(found.notes) for role, found in verdicts.items()},
        "verdict": head.word,
        "scope": f"{wording.scope(study)}, {wording.rates(plan)}",
        "sentences": list(wording.sentences(study, verdicts, wording.rates(plan))),
        "runs": len(spent),
        "core_seconds": round(sum(spent.values()), 1),
        "wall_runs": sum(run.cpu_s is None for run in every.values()),
        "versions": versions,
        "created": max((run.finished_at for run in results if run.finished_at), default=None),
    }


def _rates(plan: AnyPlan) -> dict[str, Any]:
    """Give the learning rates that were tried and taken."""
    study = plan.study
    return {
        "headline": study.headline,
        "chosen": {
            role: {arm.name: plan.rate(role, arm) for arm in study.arms} for role in study.roles
        },
        "grid": {name: search_document(each)["grid"] for name, each in plan.searches.items()},
    }


def runs(plan: AnyPlan) -> Iterator[list[object]]:
    """Yield a table of all runs, those of the tuning last."""
    if isinstance(plan, ProbePlan):
        yield from plan.rows()
        return
    study = plan.study
    factors = list(study.arms[0].levels)
    yield [
        *factors,
        "role",
        "lr",
        "stream",
        "seed",
        "state",
        *OF_RUN,
        "steps",
        "seconds",
        "cpu_s",
        "run",
    ]
    for role in study.roles:
        measures = measures_of(plan, role)
        for arm in study.arms:
            for seed, run in sorted(measures.results(arm).items()):
                values = [run.final.get(name) for name in OF_RUN.values()]
                again = measures.results(arm, "test_acc_recomputed").get(seed, run)
                values[1] = again.final.get("test/accuracy")
                place = [*arm.levels.values(), role, plan.rate(role, arm), study.stage, seed]
                yield [*place, run.state, *values, run.steps, run.train_s, run.cpu_s, run.name]
    for name, search in plan.searches.items():
        levels = next(arm.levels for arm in study.arms if arm.name == name)
        for lr, runs in search.runs.items():
            for k, run in enumerate(runs):
                values = [run.final.get(metric) for metric in OF_RUN.values()]
                place = [*levels.values(), "tune", lr, "tune", k, run.state]
                yield [*place, *values, run.steps, run.train_s, run.cpu_s, run.name]


def finding(found: Finding) -> dict[str, Any]:
    """Give a finding as plain data, in plain numbers."""
    given, one = found.hypothesis, found.judged
    return {
        "id": given.id,
        "role": given.role,
        "metric": given.metric,
        "effect": given.effect,
        "n": one.n,
        "mean": one.mean,
        "sd": one.sd,
        "lower": one.lower,
        "upper": one.upper,
        "region": given.region.kind,
        "delta": given.region.delta,
        "bounds": list(given.region.bounds) if given.region.bounds else None,
        "p_sup": one.p_sup,
        "p_ref": one.p_ref,
        "p_holm": one.adjusted,
        "signflip_p": one.signflip_p,
        "diverged": found.diverged,
        "censored": found.censored,
        "failures": [list(pair) for pair in found.failures],
        "verdict": one.verdict,
        "label": one.label or None,
        "notes": list(one.notes),
        "seeds_to_settle": one.seeds,
        "decided_at": found.decided,
        "text": wording.effect(found),
        "claim": wording.region(found),
        "says": wording.hypothesis(given),
    }
