"""`normbench study`: claims of the literature as experiments with a verdict."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from normbench.cli import study_cards
from normbench.cli.parser import Parser, outputs, screen
from normbench.errors import FileRefused, Mistake, NormbenchError, Refused
from normbench.parts.options import near

if TYPE_CHECKING:
    from normbench.display.screen import Screen
    from normbench.settings.compose import Grid
    from normbench.studies.measure import AnyPlan
    from normbench.studies.study import Study

EXAMPLES = (
    "normbench study list",
    "normbench study show bn-fig1",
    "normbench study plan bn-fig1 --size quick      starts nothing",
    "normbench study run bn-fig1 seeds.screen=12",
    "normbench study run ./mine.yaml                a study of your own",
    "normbench study verdict bn-fig1                from stored runs",
)
ACTIONS = ("list", "show", "plan", "run", "verdict", "report")
UNSUPPORTED = 5  # exit code with --strict
GOES_ON = "allow_changed=true"  # what lets runs go on that other code has kept


def parser() -> Parser:
    """Return the parser of the command's words."""
    text = "Test a claim: plan its runs, train what is missing, and say what they say of it."
    made = Parser("study", text, EXAMPLES)
    made.add_argument("action", metavar="ACTION", help=", ".join(ACTIONS))
    made.add_argument("name", nargs="?", metavar="NAME", help="of a study, or a file: ./mine.yaml")
    made.add_argument("words", nargs="*", metavar="KEY=VALUE", help="of the study, or a setting")
    made.add_argument("--size", default="quick", help="quick (default), cpu or full")
    made.add_argument("--certify", action="store_true", help="on fresh seeds")
    made.add_argument("--strict", action="store_true", help="exit code 5 unless supported")
    made.add_argument("--peek", action="store_true", help="show means early: exploratory for good")
    return made


def run(words: list[str]) -> int:
    """List, show, plan, run or judge studies.

    Returns: 0; 1 if a run failed; 5 with --strict where the claim is not supported.
    Raises: NormbenchError.
    """
    options = parser().parsed(words)
    action, shown = options.action, screen(options)
    if action not in ACTIONS:
        meant = near(action, ACTIONS) or "list"
        why = f"is none of {', '.join(ACTIONS)}"
        raise Refused(Mistake(f"study {action}", why, f"normbench study {meant}"))
    if action == "list":
        return study_cards.list_all(options, shown)
    if action == "report":
        return study_cards.report(options, shown)
    if not options.name:
        why = "no study is named"
        raise Refused(Mistake(f"study {action}", why, f"normbench study {action} bn-fig1"))
    if action == "show":
        return study_cards.show(options, shown)
    study, execution = chosen(options)
    plan = planned(study, outputs(options), execution)
    if action == "plan":
        _say_plan(plan, shown, document_wanted=True)
        return 0
    return _judged(options, plan, shown, trains=action == "run")


def chosen(options: argparse.Namespace) -> tuple[Study, list[str]]:
    """Read the study that is asked for, and the words that only say how it is run.

    Raises: Refused with what is wrong with it.
    """
    from normbench.settings.schema import EXECUTION
    from normbench.studies import card as cards
    from normbench.studies import overrides
    from normbench.studies import resolve as studies

    card = cards.read(options.name)
    keys = {*EXECUTION} - {*overrides.KEYED}  # the study says these
    execution = [word for word in options.words if word.partition("=")[0] in keys]
    own = [word for word in options.words if word not in execution]
    if own:
        card = overrides.overridden(card, own, options.size)
    stage = "certify" if options.certify else "screen"
    return studies.resolve(card, options.size, stage), execution


def planned(
    study: Study, place: str, execution: list[str] | None = None, grid: Grid | None = None
) -> AnyPlan:
    """Plan the runs of a study."""
    from normbench.settings import compose
    from normbench.studies import judge, record
    from normbench.studies.plan import Plan
    from normbench.studies.probes import ProbePlan

    grid = grid or compose.Grid(compose.loader())
    if study.kind == "probe":
        return ProbePlan(study, grid, place, record.place(place, study))
    plan = Plan(study, grid, place, execution or ())
    judge.settle(plan)
    return plan


def carried_out(plan: AnyPlan, shown: Screen) -> int:
    """Train what is missing: first the tunings, then the runs at the rates that they chose.

    Returns: 1 if a run failed, else 0.
    Raises: Refused if parts do not fit; FileRefused if data is not here.
    """
    from normbench.cli import data
    from normbench.studies import judge
    from normbench.studies.probes import ProbePlan
    from normbench.sweeps import sweep

    if isinstance(plan, ProbePlan):
        plan.measure()
        return 0
    works = [work for work in (plan.tuning, plan.sweep) if work and work.cells]
    cells = [planned for work in works for planned in work.cells]
    data.fetch(data.missing(planned.config for planned in cells if planned.left), shown)
    for work in works:
        for warning in sweep.check(work):
            shown.warn(warning.text)
    if plan.tuning:
        sweep.choose(plan.tuning, shown)
        plan.settle()
    while plan.left:  # a round of seeds each, where these are added while looking
        shown.heading([f"runs: {len(plan.sweep.items)}, {plan.left} to train"])
        sweep.many(plan.sweep, shown)
        plan.sweep.catch_up()
        if plan.left:
            return 1
        judge.settle(plan)
    plan.sweep.catch_up()
    return 0


def trained(plan: AnyPlan, place: str, shown: Screen) -> None:
    """Keep the plan, then train what is missing.

    Raises: NormbenchError if a run failed.
    """
    from normbench.studies import record
    from normbench.studies.plan import Plan

    record.keep_plan(record.place(place, plan.study), plan.study)
    if carried_out(plan, shown):
        name, size = plan.study.card.place, plan.study.size
        again = f"normbench study run {name} --size {size}"
        if isinstance(plan, Plan) and any(fix.startswith(GOES_ON) for fix in plan.fixes):
            again += f" {GOES_ON}"
        raise NormbenchError(plan.study.card.id, "a run of it failed: no verdict", again)


def concluded(plan: AnyPlan, place: str) -> dict[str, Any]:
    """Judge a study, write its folder, and return the document of its verdict."""
    from normbench.studies import card as cards
    from normbench.studies import record, resolve
    from normbench.studies.judge import judge

    path = record.place(place, plan.study)
    record.keep_plan(path, plan.study)
    own = cards.read(plan.study.card.place)
    original = resolve.resolve(own, plan.study.size, plan.study.stage)
    state = record.status(path, plan.study, original.hash == plan.study.hash)
    found = {role: judge(plan, role) for role in plan.study.roles}
    return record.write(path, plan, found, state)


def _judged(options: argparse.Namespace, plan: AnyPlan, shown: Screen, trains: bool) -> int:
    """Train, if asked, and say the verdict."""
    from normbench.studies import record

    place = outputs(options)
    path = record.place(place, plan.study)
    if trains:
        _say_plan(plan, shown)
        trained(plan, place, shown)
    elif not path.is_dir() or (plan.left and not (options.peek and plan.done())):
        raise _pending(options, plan)
    elif plan.left:
        record.peek(path)
    document = concluded(plan, place)
    shown.document({"command": "study", **document})
    for line in document["sentences"]:
        shown.statement(line)
    state = document["status"]
    if state in ("variant", "exploratory"):
        of = f" of {plan.study.card.id}" if state == "variant" else ""
        shown.statement(f"status: {state}{of}")
    if document["expect"]:
        shown.note(f"expected by the literature: {document['expect']}")
    shown.note(f"study {path}")
    return UNSUPPORTED if options.strict and document["verdict"] != "supported" else 0


def _pending(options: argparse.Namespace, plan: AnyPlan) -> FileRefused:
    why = f"pending {plan.done()}/{plan.seeds} seeds: no verdict before all are done"
    words = shlex.join([options.name, *options.words])
    again = f"normbench study run {words} --size {plan.study.size}"
    return FileRefused(plan.study.card.id, why, again + " --certify" * options.certify)


def _say_plan(plan: AnyPlan, shown: Screen, document_wanted: bool = False) -> None:
    """Print a plan: what is run, at what cost, and what will be judged."""
    from normbench.studies import wording

    study = plan.study
    most, spent = study.cost
    lines = [
        f"{study.card.id}  {study.card.text('claim')}",
        f"size {study.size}, {study.counted}, hash {study.hash[:12]}",
        f"arms: {', '.join(arm.name for arm in study.arms)}",
        f"runs: {plan.runs}, {plan.left} to train, about {plan.seconds:.0f} core-seconds",
        *(
            [f"with all seeds at most {most} runs, about {spent:.0f} core-seconds"]
            * study.automatic
        ),
        f"learning rates: {wording.rates(plan)}; judged {' and '.join(study.roles)}",
        *(f"claim {each.id}: {wording.hypothesis(each)}" for each in study.primary),
    ]
    document = {
        "command": "study",
        "study": study.card.id,
        "size": study.size,
        "hash": study.hash,
        "arms": [arm.name for arm in study.arms],
        "seeds": study.seeds,
        "runs": plan.runs,
        "left": plan.left,
        "core_seconds": round(plan.seconds, 1),
        "at_most": {"runs": most, "core_seconds": round(spent, 1)},
    }
    if document_wanted:
        shown.document(document)
    shown.heading(lines)
