"""Hydra as its users know it: presets, sweeps in files, words of its own, a user's files."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path

import pytest

from normbench.cli.main import main
from normbench.errors import Refused
from normbench.parts import registry
from normbench.settings.cell import Cell
from normbench.settings.compose import Grid, loader

SMALL = ("data=synthetic", "model=mlp", "steps=2", "device=cpu")


def cells(*words: str, multirun: bool = False, config_dir: Path | None = None) -> list[Cell]:
    return Grid(loader(str(config_dir) if config_dir else None)).cells(words, multirun)


def refused(*words: str, multirun: bool = False, config_dir: Path | None = None) -> str:
    with pytest.raises(Refused) as error:
        cells(*words, multirun=multirun, config_dir=config_dir)
    return str(error.value)


def wrote(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", registry.presets())
def test_each_packaged_preset_composes_and_says_what_it_is(name: str) -> None:
    assert all(cell.config for cell in cells(f"experiment={name}"))
    assert re.fullmatch(r"[A-Z].*\.", registry.presets()[name])


def test_a_preset_may_choose_parts_set_values_and_keep_a_sweep(tmp_path: Path) -> None:
    text = (
        "# @package _global_\ndefaults: [{override /norm: gn}]\nsteps: 3\nnorm: {groups: 2}\n"
        "hydra: {sweeper: {params: {batch: '2,4', model: 'mlp,cnn'}}}\n"
    )
    wrote(tmp_path, "experiment/mine.yaml", text)
    (one,) = cells("experiment=mine", config_dir=tmp_path)
    assert one.config and one.config.norm["groups"] == 2 and one.config.steps == 3
    swept = cells("+experiment=mine", "batch=8,16,32", multirun=True, config_dir=tmp_path)
    assert [(each.config.batch, each.config.model["name"]) for each in swept if each.config] == [
        (batch, model) for batch in (8, 16, 32) for model in ("mlp", "cnn")
    ]


def test_a_preset_chooses_sweeper_and_launcher_and_the_command_line_wins(tmp_path: Path) -> None:
    choice = "[{override /hydra/sweeper: basic}, {override /hydra/launcher: basic}]"
    wrote(tmp_path, "experiment/mine.yaml", f"# @package _global_\ndefaults: {choice}\n")
    for word, sweeper in (("steps=2", "basic"), ("hydra/sweeper=normbench", "normbench")):
        grid = Grid(loader(str(tmp_path)))
        grid.cells(["experiment=mine", "norm=bn,gn", word], multirun=True)
        assert (grid.hydra.sweeper, grid.hydra.launcher) == (sweeper, "basic")


def test_a_preset_whose_mode_is_multirun_is_a_sweep_without_m(tmp_path: Path) -> None:
    head = "# @package _global_\n"
    params = "hydra: {mode: MULTIRUN, sweeper: {params: {norm: 'bn,gn'}}}\n"
    wrote(tmp_path, "experiment/mine.yaml", head + params)
    assert len(cells("experiment=mine", config_dir=tmp_path)) == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a", "batch: 2\n", "experiment=a: the settings of .*a.yaml are not for the whole"),
        ("b", "# @package _global_\nbach: 2\n", r"bach=2: no setting .*b.yaml line 2\)"),
        ("c", "# @package _global_\n\nbatch: two\n", r"batch=two: is not .*c.yaml line 3\)"),
        ("d", "# @package _global_\nnorm:\n  gruops: 2\n", r"norm.gruops=2: .*d.yaml line 3\)"),
        ("u", "# @package _global_\nbatch: 2\n".encode("utf-16"), "u.yaml line 1 is not UTF-8"),
        ("l", "- batch\n", "l.yaml line 1 begins a list"),
        ("e", "# @package _global_\ndefaults: [{override /norm: gm}]\n", "experiment=e: .*norm/gm"),
        ("f", "# @package _global_\nhydra: {sweeper: {parms: {norm: 'bn,gn'}}}\n", "parms"),
    ],
)
def test_what_is_wrong_in_a_preset_is_said_with_its_file(
    name: str, text: str | bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrote(tmp_path, f"experiment/{name}.yaml", text)
    words = ["-m", f"experiment={name}", "--config-dir", str(tmp_path), *SMALL, "tb=false"]
    words.append(f"outputs={tmp_path / 'outputs'}")
    assert main(["train", *words]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert said.splitlines()[-2].startswith("normbench: error: ") and "Traceback" not in said


@pytest.mark.parametrize("place", ["norm/bn.yaml", "experiment/workers.yaml", "train.yaml"])
def test_a_file_with_a_packaged_name_is_refused_and_not_ignored(place: str, tmp_path: Path) -> None:
    path = wrote(tmp_path, place, "name: gn\n")
    with pytest.raises(Refused, match="normbench has a file of this name") as error:
        loader(str(tmp_path))
    assert error.value.mistakes[0].subject == str(path)


def test_a_copy_of_the_packaged_files_is_no_mistake(tmp_path: Path) -> None:
    ours = registry.configs() / "norm/gn.yaml"
    wrote(tmp_path, "norm/gn.yaml", ours.read_bytes())
    assert len(cells("norm=gn", config_dir=tmp_path)) == 1


@pytest.mark.parametrize("place", ["missing", "file.yaml", "~/missing"])
def test_a_config_dir_that_is_no_folder_is_refused(place: str, tmp_path: Path) -> None:
    wrote(tmp_path, "file.yaml", "a: 1\n")
    with pytest.raises(Refused, match="no such folder|is a file"):
        loader(str(tmp_path / place) if "~" not in place else place)


def test_a_tilde_of_a_config_dir_is_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote(tmp_path, "conf/norm/mine.yaml", "defaults: [gn, _self_]\ngroups: 2\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    (cell,) = Grid(loader("~/conf")).cells(["norm=mine"], multirun=False)
    assert cell.config and cell.config.norm["groups"] == 2


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("hydra.job.chidr=true", "hydra.job.chdir=true"),
        ("hydra.vrbose=true", "hydra.verbose=true"),
        ("hydra.jobb.name=x", "hydra.job.name=x"),
        ("hydra.launcher.n_jobs=2", None),
        ("hydra.mode=FOO", None),
        ("hydra.job.chdir=maybe", None),
        ("hydra.mode=${oc.env:HOME}", None),
        ("hydra.job.chdir=${no.such.key}", None),
        ("hydra.sweeper.params.norm=${no.such.key}", None),
        ("hydra.job.env_copy=[NO_SUCH_VARIABLE_HERE]", None),
        ("hydra.searchpath=3", None),
        ("hydra.searchpath=[file:///no/such/folder]", None),
        ("+hydra.job.name=x", None),
        ("hydra=2", None),
        ("hydra.launcher=basic", "hydra/launcher=basic"),
        ("hydra.sweeper=norm_bench", "hydra/sweeper=normbench"),
        ("hydra.job_logging=disable", "hydra/job_logging=disabled"),
        ("~hydra.nosuch", None),
        ("hydra/job_logging=defualt", "hydra/job_logging=default"),
        ("hydra/nosuch=x", None),
    ],
)
def test_a_wrong_word_below_hydra_gets_two_lines(word: str, fix: str | None) -> None:
    first, second = refused(word).splitlines()
    assert first.startswith(f"normbench: error: {word}: ")
    assert fix is None or second == f"  try: {fix}"
    if second.startswith("  try: hydra"):
        assert cells(*shlex.split(second.removeprefix("  try: ")))


@pytest.mark.parametrize(
    "words",
    [
        "hydra.run.dir=/proc/x",
        "hydra.output_subdir=/proc/x",
        "+hydra.callbacks.x._target_=no.such.module",
        "hydra.launcher._target_=no.such.launcher -m norm=bn,gn",
        "+hydra.launcher.n_jobs=2 -m norm=bn,gn",
        "hydra.run.dir=${no.such.key}",
        "--cfg job hydra.job.chidr=true",
        "--info defaults norm=nosuch",
        "--package nosuch --cfg job",
    ],
)
def test_what_hydra_finds_wrong_when_it_starts_is_two_lines(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = logging.root.level, [*logging.root.handlers]
    assert main(["train", *SMALL, "tb=false", *words.split(" ")]) == 2
    assert (logging.root.level, logging.root.handlers) == before
    *before_it, first, _ = capsys.readouterr().err.splitlines()
    assert first.startswith("normbench: error: ")
    assert before_it == [line for line in before_it if "--package" in words]  # Hydra's own line
    assert not (tmp_path / "outputs").exists()


def test_a_defect_of_a_run_keeps_its_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from normbench.runs import run as runs

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["train", *SMALL, "tb=false"])


def test_a_member_is_addressed_wherever_it_stands() -> None:
    def groups(*words: str) -> list[object]:
        found = cells(*SMALL, *words, multirun=True)
        return [(each.config.norm["name"], each.config.norm) for each in found if each.config]

    found = groups("norm=bn,gn,ln,ws+gn", "norm.gn.groups=2,4")
    assert [name for name, _ in found] == ["bn", "gn", "gn", "ln", "ws+gn", "ws+gn"]
    assert [norm.get("groups") for name, norm in found if name == "gn"] == [2, 4]
    assert [norm["gn"]["groups"] for name, norm in found if name == "ws+gn"] == [2, 4]
    assert len(groups("optimizer=sgd,adam", "optimizer.adam.beta1=0.8,0.9")) == 3
    assert len(groups("init=zeros,orthogonal", "init.orthogonal.gain=1,2")) == 3


def test_a_member_that_no_cell_has_is_a_mistake_with_what_works() -> None:
    for words, multirun in ((["norm=bn"], False), (["norm=bn,ln"], True)):
        said = refused(*words, "norm.gn.groups=4", multirun=multirun)
        assert "norm.gn.groups=4: norm=bn" in said and "try: norm=gn norm.groups=4" in said
    assert "norm.gn.groups=4" in refused("norm=bn,gn", "norm.groups=4", multirun=True)


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("norm=bn,gn norm_batch=worker,2", 3),
        ("model=mlp,rnn blank_steps=0,2", 3),
        ("lr_rule=none,linear lr_base_batch=32,64", 3),
        ("schedule=onecycle,cosine warmup_least=0,40", 3),
    ],
)
def test_a_setting_that_makes_no_difference_in_a_cell_makes_no_run(words: str, count: int) -> None:
    grid = Grid(loader())
    found = grid.cells([*SMALL[::2], "device=cpu", *words.split()], multirun=True)
    assert len({cell.config.name for cell in found if cell.config}) == count
    assert all(cell.config for cell in found)
    assert len(grid.notes) == 1


def test_a_setting_without_effect_in_every_cell_stays_a_mistake() -> None:
    assert "norm_batch=2: norm=gn" in refused("norm=gn", "norm_batch=2")
    assert "norm_batch=2: norm=ln" in refused("norm=gn,ln", "norm_batch=2", multirun=True)


@pytest.mark.parametrize(
    "word",
    [
        "jobs=1,2",
        "dry_run=true,false",
        "tb_axis=step,examples",
        "checkpoint_every=2,3",
        "baseline=bn,gn",
    ],
)
def test_a_list_of_what_changes_no_run_is_refused(word: str) -> None:
    first, second = refused(*SMALL, word, multirun=True).split("\n")
    assert first.startswith(f"normbench: error: {word}: makes no difference to the result")
    assert second == f"  try: {word.partition(',')[0]}"


def test_booleans_of_a_list_are_shown_as_they_are_typed() -> None:
    found = cells(*SMALL, "norm.affine=true,false", multirun=True)
    assert [cell.row[-1] for cell in found] == ["norm.affine=true", "norm.affine=false"]


@pytest.mark.parametrize(
    "text", ["interval(0.1,1)", "tag(log,interval(1,2))", "tag(a,choice(1,2))"]
)
def test_lists_for_sweepers_that_choose_are_refused_by_one_that_does_not(text: str) -> None:
    for multirun in (True, False):
        assert "for sweepers that choose" in refused(f"optimizer.lr={text}", multirun=multirun)


def test_paths_begin_where_the_command_was_typed_when_hydra_changes_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["hydra.job.chdir=true", "hydra.run.dir=elsewhere", "outputs=out", "tb=false"]
    assert main(["train", *SMALL, *words]) == 0
    assert list((tmp_path / "out/runs").iterdir())
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("how", "name"),
    [
        *(("outputs=", name) for name in ("é a (1),[x]", "b, 'c'", "{d}=$e", "f\\g")),
        *((how, "é a (1),[x] 'c' {d}=$e\\f") for how in ("--outputs=", "NORMBENCH_OUTPUTS")),
    ],
)
def test_a_path_is_taken_as_it_stands_and_a_tilde_is_the_home(
    how: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    words = [] if how.isupper() else [f"{how}~/{name}"]
    if how.isupper():
        monkeypatch.setenv(how, f"~/{name}")
    assert main(["train", *SMALL, "tb=false", "-q", *words]) == 0
    assert [path.name for path in (tmp_path / "home").iterdir()] == [name]
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("words", [["summary", "--gpus", "2"], ["bench", "--bacth=2"]])
def test_an_unknown_option_is_never_dropped(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert "is not an option; settings are KEY=VALUE" in capsys.readouterr().err
