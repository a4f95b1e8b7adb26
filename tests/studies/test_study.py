"""Studies as commands: a set with known effects, what is refused, and that all cards compose."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from commands import document, normbench
from made_up import MINE

from normbench.settings import compose
from normbench.studies import card as cards
from normbench.studies import judge, overrides
from normbench.studies import resolve as studies
from normbench.studies.values import Value


def test_known_effects_are_found_and_kept(tmp_path: Path) -> None:
    """One hypothesis is true and one reversed; the same command again trains nothing."""
    few = {**MINE, "arms": {key: MINE["arms"][key] for key in ("long", "short")}}
    few |= {"lr": {"shared": 0.1}, "hypotheses": [MINE["hypotheses"][at] for at in (0, 2)]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(few))
    words = ("study", "run", "./mine.yaml", "jobs=2")
    plan = document("study", "plan", "./mine.yaml", cwd=tmp_path)
    assert (plan["runs"], plan["left"]) == (14, 14)
    assert not (tmp_path / "outputs").exists()
    early = normbench("study", "verdict", "./mine.yaml", cwd=tmp_path)
    assert (early.returncode, "pending 0/7 seeds" in early.stderr) == (3, True)
    found = document(*words, cwd=tmp_path)
    assert found["verdict"] == "1 supported, 1 refuted"
    place = tmp_path / "outputs" / "studies" / "mine" / found["hash"][:12]
    before = (place / "verdict.json").read_bytes()
    assert {path.name for path in place.iterdir()} == {
        *("plan.yaml", "runs.csv", "table.md", "verdict.json", "forest.svg"),
    }
    assert document("study", "verdict", "./mine.yaml", cwd=tmp_path) == found
    assert normbench(*words, "--strict", cwd=tmp_path).returncode == 5
    assert (place / "verdict.json").read_bytes() == before
    book = document("book", "./mine.yaml", "-o", "claims.md", cwd=tmp_path)
    assert [each["hash"] for each in book["verdicts"]] == [found["hash"]]
    told = document("study", "report", "./mine.yaml", cwd=tmp_path)
    assert [each["hash"] for each in told["verdicts"]] == [found["hash"]]
    other = normbench("study", "report", "bn-fig1", cwd=tmp_path)
    assert (other.returncode, "has no finished study bn-fig1" in other.stderr) == (3, True)
    page = (tmp_path / "claims.md").read_text()
    assert "| true | test_acc: long - short > 0.5 pp | +" in page
    (place / "plan.yaml").write_text("hash: 0\n")
    changed = normbench("study", "verdict", "./mine.yaml", cwd=tmp_path)
    assert (changed.returncode, "was changed" in changed.stderr) == (3, True)


@pytest.mark.slow
def test_both_learning_rates_are_judged(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(MINE))
    found = document("study", "run", "./mine.yaml", "jobs=2", cwd=tmp_path)
    assert found["words"] == dict.fromkeys(("shared", "tuned"), "1 supported, 2 refuted")
    for role in ("shared", "tuned"):
        judged = [(one["verdict"], one["label"]) for one in found["hypotheses"][role]]
        assert judged == [("supported", None), ("refuted", "negligible"), ("refuted", "reversed")]
    assert {*found["lr"]["chosen"]["tuned"]} == {"long", "short", "same"}


def test_overrides_make_a_variant_and_texts_do_not() -> None:
    card = cards.checked(MINE, "mine.yaml")
    plain = studies.resolve(card, "quick")
    variant = studies.resolve(
        overrides.overridden(card, ["seeds.screen=9", "batch=32"], "quick"), "quick"
    )
    retold = studies.resolve(cards.checked({**MINE, "title": "Other"}, "mine.yaml"), "quick")
    assert (variant.seeds, variant.arms[0].settings["batch"]) == (9, 32)
    assert retold.hash == plain.hash != variant.hash


@pytest.mark.slow
def test_every_card_composes_at_size_quick() -> None:
    grid = compose.Grid(compose.loader())
    for name in cards.packaged():
        card = cards.read(name)
        assert (card.id, bool(card.text("expect"))) == (name, True)
        for arm in studies.resolve(card, "quick").arms:
            grid.cells(arm.words, multirun=False)


def test_all_cards_resolve_at_all_their_sizes() -> None:
    for name in cards.packaged():
        card = cards.read(name)
        for size in card.sizes:
            assert studies.resolve(card, size).cost[0] > 0


def test_the_book_says_what_is_stored_and_what_is_missing(tmp_path: Path) -> None:
    words = ("book", "bn-fig1", "stat-noise", "--stored", "-o", "claims.md")
    assert document(*words, cwd=tmp_path)["verdicts"] == []
    page = (tmp_path / "claims.md").read_bytes()
    assert b"`bn-fig1` BN trains faster and ends more accurate. pending 0/8 seeds" in page
    assert b"<script" not in (tmp_path / "claims.html").read_bytes()
    assert document(*words, cwd=tmp_path)["verdicts"] == []
    assert (tmp_path / "claims.md").read_bytes() == page


METRICS = [  # each with how its effect is made
    *("test_acc_recomputed", "val_acc", "train_acc", "gen_gap", "abs(mode_gap)", "auc"),
    *("final_over_best", "shift_drop", "test(invert)", "drop(invert, noise+0.1)"),
    *("spread(test_acc, optimizer.lr)", "max_lr", "best_over_last"),
]


@pytest.mark.slow
def test_every_metric_is_read_off_runs(tmp_path: Path) -> None:
    sides = {"a": {"norm": "bn"}, "b": {"norm": "none"}}
    pinned = {key: {**side, "optimizer.lr": 0.1} for key, side in sides.items()}
    region = {"region": "greater", "delta": 0.5}
    whole = {"role": "secondary", **region}
    given: list[dict[str, Any]] = [{"id": "m0", **pinned, **region}]
    given += [
        {"id": f"m{at}", "metric": metric, **whole}
        | (sides if metric.startswith(("spread", "max")) else pinned)
        for at, metric in enumerate(METRICS, 1)
    ]
    slope = {"effect": "slope", "over": "optimizer.lr", "a": sides["a"]}
    ratio = {"effect": "log_ratio", "metric": "train_loss_late", **pinned}
    crossed = {"c": {"norm": "bn", "optimizer.lr": 0.01}, "d": {"norm": "none"}}
    given += [{"id": "slope", **slope, **whole}, {"id": "ratio", **ratio, **whole}]
    given += [{"id": "steps", "effect": "log_ratio", "metric": "steps_to(5)", **pinned, **whole}]
    given += [{"id": "cross", "effect": "interaction", **pinned, **crossed, **whole}]
    tree = {
        **{key: MINE[key] for key in ("id", "claim", "failures")},
        "factors": {"norm": ["bn", "none"], "optimizer.lr": [0.01, 0.1]},
        "fixed": {**MINE["fixed"], "steps": 6, "log_every": 1, "eval_every_steps": 2}
        | {"shifts": ["invert", "noise+0.1"]},
        "hypotheses": given,
        "seeds": {"screen": 6},
        "sizes": {"quick": {}},
    }
    del tree["fixed"]["norm"], tree["fixed"]["eval_every"]
    (tmp_path / "mine.yaml").write_text(json.dumps(tree))  # safe_dump would write aliases
    found = document("study", "run", "./mine.yaml", "jobs=2", cwd=tmp_path)
    judged = found["hypotheses"]["fixed"]
    assert {one["id"]: one["n"] for one in judged} == dict.fromkeys(
        (each["id"] for each in given), 6
    )


AUTO = {**MINE, "arms": {key: MINE["arms"][key] for key in ("long", "short")}} | {
    "lr": {"shared": 0.1},
    "hypotheses": [MINE["hypotheses"][at] for at in (0, 2)],
    "seeds": "auto",
}


def test_a_plan_says_what_added_seeds_may_cost(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(AUTO))
    plan = document("study", "plan", "./mine.yaml", "seeds_max=9", cwd=tmp_path)
    assert (plan["runs"], plan["at_most"]["runs"], plan["seeds"]) == (8, 18, 9)
    few = normbench("study", "plan", "./mine.yaml", "seeds_max=5", cwd=tmp_path)
    assert (few.returncode, "try: seeds.max=7" in few.stderr) == (2, True)


@pytest.mark.slow
def test_seeds_are_added_until_the_claims_are_decided(tmp_path: Path) -> None:
    """Stopped after a round, it goes on from there and ends with the same bytes."""
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(AUTO))
    found = document("study", "run", "./mine.yaml", "jobs=2", cwd=tmp_path)
    assert found["verdict"] == "1 supported, 1 refuted"
    seeds = found["seeds"]["count"]
    decided = [one["decided_at"] for one in found["hypotheses"]["shared"]]
    assert 4 <= max(decided) == seeds < found["seeds"]["most"] == 40
    (verdict,) = tmp_path.glob("outputs/studies/mine/*/verdict.json")
    before = verdict.read_bytes()
    for folder in tmp_path.glob(f"outputs/runs/*/seed{999 + seeds}"):
        folder.rename(tmp_path / folder.parent.name)  # as if it had been stopped
    pending = normbench("study", "verdict", "./mine.yaml", cwd=tmp_path)
    assert f"pending {seeds - 1}/{seeds} seeds" in pending.stderr
    for folder in tmp_path.glob("outputs/runs/*"):
        (tmp_path / folder.name).rename(folder / f"seed{999 + seeds}")
    assert document("study", "verdict", "./mine.yaml", cwd=tmp_path) == found
    assert verdict.read_bytes() == before


@pytest.mark.slow
def test_a_curve_does_not_depend_on_who_trained_the_run(tmp_path: Path) -> None:
    """Runs with fewer validations are trained again; of finer curves the own steps count."""
    asked = zip(AUTO["hypotheses"], ("auc", "final_over_best"), strict=True)
    fixed = {key: value for key, value in MINE["fixed"].items() if key != "eval_every"}
    tree = {
        **{key: AUTO[key] for key in ("id", "claim", "arms", "lr", "failures", "sizes")},
        "seeds": {"screen": 7},
        "fixed": {**fixed, "eval_every_steps": 6},
        "hypotheses": [{**one, "metric": metric} for one, metric in asked],
    }
    found = {}
    for name, every in {"alone": 0, "fewer": 24, "more": 2}.items():
        (folder := tmp_path / name).mkdir()
        if every:
            first = {**tree, "fixed": {**fixed, "eval_every_steps": every}}
            (folder / "mine.yaml").write_text(json.dumps(first))
            normbench("study", "run", "./mine.yaml", "jobs=2", cwd=folder)
        (folder / "mine.yaml").write_text(json.dumps(tree))
        document("study", "run", "./mine.yaml", "jobs=2", cwd=folder)
        found[name] = document("study", "verdict", "./mine.yaml", cwd=folder)
    effects = [[one["effect"] for one in each["hypotheses"]["shared"]] for each in found.values()]
    assert effects[0] == effects[1] == effects[2]


def test_a_value_of_0_has_no_logarithm_and_no_word() -> None:
    sides = {"a": {"arm": "long"}, "b": {"arm": "short"}}
    ratio = {"id": "ratio", "metric": "max_lr", "effect": "log_ratio", "region": "less"}
    tree = {**MINE, "hypotheses": [{**ratio, **sides, "delta": 0.5}], "failures": "apart"}
    study = studies.resolve(cards.checked(tree, "mine.yaml"), "quick")
    plan: Any = SimpleNamespace(study=study)
    for zero, word in ((0.0, "inconclusive"), (0.1, "supported")):
        values = {
            "long": {seed: Value(x, x) for seed, x in enumerate([zero, *[0.1] * 6])},
            "short": {seed: Value(1.0 + seed / 9, 1.0 + seed / 9) for seed in range(7)},
        }
        measures: Any = SimpleNamespace(
            of=lambda metric, arms, values=values: values[arms[0].name],
            outcomes=lambda arms: (0, 7),
            role="shared",
            seeds=7,
        )
        found = judge._finding(study.hypotheses[0], None, plan, measures)
        assert (found.judged.verdict, found.effects.n) == (word, 6 + (zero > 0))
