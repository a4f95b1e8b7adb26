"""From command lines to cells: what composes, what is resolved, what is refused."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from normbench.errors import Refused
from normbench.parts import registry
from normbench.parts.options import leaves
from normbench.runtime import machine
from normbench.settings import packaged as parts
from normbench.settings import schema
from normbench.settings.compose import Grid, loader
from normbench.settings.declared import default_parts, defaults
from normbench.settings.described import described
from normbench.settings.schema import Config


def cells(*words: str, multirun: bool = False, config_dir: Path | None = None) -> list[Config]:
    found = Grid(loader(str(config_dir) if config_dir else None)).cells(words, multirun)
    return [cell.config for cell in found if cell.config]


def one(*words: str) -> Config:
    (cell,) = cells(*words)
    return cell


def test_a_sweep_is_the_product_in_command_line_order() -> None:
    found = cells("norm=bn,gn", "batch=2,32", multirun=True)
    assert [(each.norm["name"], each.batch) for each in found] == [
        ("bn", 2),
        ("bn", 32),
        ("gn", 2),
        ("gn", 32),
    ]


def test_range_and_glob_are_hydra_s() -> None:
    assert [each.seed for each in cells("seed=range(0,3)", multirun=True)] == [0, 1, 2]
    assert {each.init["name"] for each in cells("init=glob(xavier*)", multirun=True)} == {
        "xavier_normal",
        "xavier_uniform",
    }


def test_nothing_is_left_to_resolve() -> None:
    made = one("norm=gn", "batch=100")
    assert made.placement == "pre"
    assert made.activation == {"name": "relu"}
    assert made.bias == "on"
    assert made.steps == 550
    assert made.eval_every == pytest.approx(0.1)
    assert one("batch=100", "eval_every_steps=11").eval_every == pytest.approx(0.02)
    assert made.device in ("cpu", "cuda")


def test_the_norm_says_what_auto_becomes() -> None:
    assert one("norm=frn").activation == {"name": "tlu"}
    assert one("norm=bn").bias == "auto"


@pytest.mark.parametrize(
    ("rule", "lr"), [("none", 0.1), ("linear", 0.1 * 2 / 64), ("sqrt", 0.1 * (2 / 64) ** 0.5)]
)
def test_learning_rate_rules(rule: str, lr: float) -> None:
    assert one("batch=2", "optimizer.lr=0.1", f"lr_rule={rule}").lr == pytest.approx(lr)


def test_the_same_run_has_one_name_however_it_is_said() -> None:
    plain = one("norm=gn", "batch=32", "epochs=1", "optimizer.lr=1")
    again = one("optimizer.lr=1.0", "batch=32", "norm=gn", "placement=pre", "activation=relu")
    steps = one("norm=gn", "batch=32", "steps=1718", "optimizer.lr=1", "bias=on")
    assert plain.name == again.name == steps.name


def test_seed_and_execution_do_not_name_a_run() -> None:
    name = one("norm=gn").name
    assert one("norm=gn", "seed=3", "outputs=elsewhere", "jobs=2", "tb=false").name == name
    assert one("norm=gn", "data.root=elsewhere").name == name


@pytest.mark.parametrize("word", ["batch=32", "norm.eps=0.1", "threads=2", "data.train_size=100"])
def test_every_setting_that_can_change_a_number_names_a_run(word: str) -> None:
    assert one("norm=gn", word).name != one("norm=gn").name


def test_the_names_of_today_stay_the_names_of_tomorrow() -> None:
    """If this fails, finished runs of users are no longer found: change the code, not the test."""
    name = one("norm=gn", "batch=2", "device=cpu", "optimizer.lr=0.1").name
    assert name == "cnn-gn-b2-lr0.1-e68c7577a4e8"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("", "cnn-bn-b64"),
        ("model=mlp norm=gn norm.groups=4", "mlp-gn-groups4-b64"),
        ("model=mlp model.depth=5 norm=none batch=8", "mlp-depth5-none-b8"),
        ("norm=ws+gn norm.gn.groups=4", "cnn-ws+gn-gn.groups4-b64"),
        ("init=normal init.std=0.3 optimizer=adam", "cnn-bn-b64-normal-std0.3-adam"),
        ("order=dirichlet order.alpha=0.1", "cnn-bn-b64-dirichlet-alpha0.1"),
        ("epochs=2", "cnn-bn-b64-epochs2"),
        ("steps=1718", "cnn-bn-b64-epochs2"),
        ("examples=6400", "cnn-bn-b64-steps100"),
        ("norm=frn activation=tlu warmup=0.1 placement=pre bias=on", "cnn-frn-b64"),
        ("warmup=0.3 placement=post augment=flip+crop", "cnn-bn-b64-warmup0.3-placement_post"),
        ("data.train_size=3500", "cnn-bn-b64-train_size3500"),
    ],
)
def test_a_name_tells_what_differs_from_the_defaults(words: str, name: str) -> None:
    assert re.match(
        rf"{re.escape(name)}(-augment_crop\+flip)?-[0-9a-f]{{12}}$", one(*words.split()).name
    )


def test_a_name_of_many_options_ends_before_it_gets_too_long_for_a_file_system() -> None:
    words = "norm=ws+gn norm.gn.groups=4 norm.gn.eps=0.123456789 init=normal optimizer=adam"
    words += " init.std=0.123456789 optimizer.beta1=0.8123456 optimizer.eps=1e-07 dropout=0.123456"
    assert len(one(*words.split()).name) <= 120 + 13


def test_seeds_count_up_from_the_seed() -> None:
    assert [each.seed for each in one("seeds=3", "seed=5").with_seeds()] == [5, 6, 7]


def test_options_of_the_user_s_own_file(tmp_path: Path) -> None:
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm/mine.yaml").write_text("defaults: [gn, _self_]\ngroups: 4\n")
    (made,) = cells("norm=mine", config_dir=tmp_path)
    assert made.norm["name"] == "gn"
    assert made.norm["groups"] == 4


def test_an_unknown_option_in_the_user_s_own_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm/mine.yaml").write_text("defaults: [gn, _self_]\ngroup: 4\n")
    with pytest.raises(Refused, match=r"norm\.group=4: gn has no such option"):
        cells("norm=mine", config_dir=tmp_path)


def test_skip_invalid_leaves_cells_out_and_says_why() -> None:
    words = ["placement=pre,preact", "skip_invalid=true"]
    found = Grid(loader()).cells(words, True)
    assert [cell.config is None for cell in found] == [False, True]
    assert "no residual blocks" in found[1].misfits[0].why


def test_cells_equal_what_hydra_composes() -> None:
    """Our cells are put together from copies; Hydra composes each one by itself."""
    choice = random.Random(0)
    axes = {
        "norm": ["norm=bn", "norm=gn", "norm=bn,none", "norm=glob(w*)"],
        "batch": ["batch=2", "batch=2,32", "batch=range(8,11)", "batch=choice(4,8)"],
        "dropout": ["dropout=0.1", "dropout='0.2'", "optimizer.lr=0.1,1"],
        "steps": ["steps=5", "steps=${log_every}", "seed=1,2"],
    }
    ours = Grid(loader())
    parser = OverridesParser.create(ours.loader)
    for _ in range(12):
        words = [choice.choice(each) for each in axes.values()]
        (rows,) = BasicSweeper.split_arguments(parser.parse_overrides(words), None)
        expected = [
            OmegaConf.to_container(
                ours.loader.load_configuration("train", list(row), RunMode.RUN), resolve=False
            )
            for row in rows
        ]
        mine = itertools.product(*(ours.read.read(word, True) for word in words))
        for row, tree in zip(mine, expected, strict=True):
            assert isinstance(tree, dict)
            tree.pop("hydra")
            assert ours._tree(row) == OmegaConf.to_container(OmegaConf.create(tree), resolve=True)


def packaged() -> str:
    return (registry.configs() / "train.yaml").read_text(encoding="utf-8")


def lines_of_80_columns() -> list[str]:
    with patch.dict(os.environ, COLUMNS="80"):
        return list(described("{key}: {value}"))


@pytest.mark.parametrize("line", lines_of_80_columns())
def test_train_yaml_has_each_setting_as_it_is_declared(line: str) -> None:
    nested = line.replace("dist.port: null     ", "dist: {port: null}  ")
    assert nested in packaged().splitlines(), f"configs/train.yaml needs the line\n{nested}"


def test_train_yaml_has_no_other_settings_or_parts() -> None:
    tree = yaml.safe_load(packaged())
    chosen = {group: name for each in tree.pop("defaults")[:-3] for group, name in each.items()}
    assert chosen == default_parts()
    del tree["hydra"]
    assert dict(leaves(tree)) == defaults()


def test_a_config_is_made_in_python_from_its_defaults() -> None:
    made = Config(norm={"name": "gn", "groups": 4, "eps": 1e-5, "affine": True}, batch=2)
    assert (made.model["name"], made.lr, made.shifts) == ("cnn", 0.03 * 2 / 64, ())


def test_a_length_in_examples_is_that_of_as_many_steps() -> None:
    (by_steps,) = cells("batch=32", "steps=20")
    (by_examples,) = cells("batch=32", "examples=640")
    assert by_examples.steps == 20
    assert by_examples.name == by_steps.name
    assert [each.steps for each in cells("batch=2,64", "examples=640", multirun=True)] == [320, 10]


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The override of a launcher whose jobs run on other machines."""
    ConfigStore.instance().store(group="hydra/launcher", name="cluster", node={"_target_": "none"})
    yield "hydra/launcher=cluster"
    del ConfigStore.instance().repo["hydra"]["launcher"]["cluster.yaml"]


def test_devices_of_other_machines_are_not_looked_for_here(
    elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "resolve_device", lambda *_: pytest.fail("it was looked for"))
    (made,) = cells(elsewhere, "device=cuda", "gpus=8", multirun=True)
    assert (made.device, made.gpus) == ("cuda", 8)


def test_a_device_of_other_machines_has_to_be_named(elsewhere: str) -> None:
    with pytest.raises(Refused) as refused:
        cells(elsewhere, "norm=bn,gn", multirun=True)
    assert str(refused.value) == (
        "normbench: error: device=auto: what there is cannot be known here, the runs are on other "
        "machines\n  try: device=cuda or device=cpu"
    )


@pytest.mark.parametrize("name", ["normbench", "basic"])
def test_launchers_that_stay_here_may_choose_the_device(name: str) -> None:
    (made,) = cells(f"hydra/launcher={name}", multirun=True)
    assert made.device in ("cpu", "cuda")


def test_runs_of_the_layout_before_are_not_taken_for_those_of_today() -> None:
    """Their names counted evaluations: this was the default run."""
    assert one("device=cpu", "optimizer.lr=0.1").name != "cnn-bn-b64-5d4b75e6256e"
    assert (
        one("order_alpha=0.1", "order=dirichlet").name
        == one("order=dirichlet", "order.alpha=0.1").name
    )


def test_a_run_of_another_default_is_not_taken_for_one_of_the_former(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(schema.FORMER, ("optimizer", "sgd", "lr"), 0.3)
    words = [(), ("optimizer.lr=0.3",), ("optimizer.lr=0.3", "norm=gn")]
    names = [one(*line).name for line in words]
    monkeypatch.setitem(schema.FORMER, ("optimizer", "sgd", "lr"), 0.7)
    assert all(one(*line).name != name for line, name in zip(words[1:], names[1:], strict=True))
    assert one("optimizer.lr=0.7").name == names[1]


@pytest.mark.slow
def test_parts_put_in_from_their_files_are_as_hydra_composes_them() -> None:
    grid = Grid(loader())
    for group in set(grid.read.groups) & {*registry.KINDS}:
        for name in grid.read.choices(group):
            chosen = (f"{group}={name}",)
            found, expected = parts.packaged(chosen).tree, grid.composed(chosen).tree
            assert json.dumps(found) == json.dumps(expected)
