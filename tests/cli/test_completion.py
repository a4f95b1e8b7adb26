"""What shells are offered for a word, and that bash takes it in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from normbench.cli.completion import SCRIPTS, SHELLS, offers
from normbench.cli.main import VERBS, main
from normbench.parts import registry


def offered(line: str) -> list[str]:
    return offers(f"normbench {line}")


def test_commands_are_offered_first():
    assert offered("") == sorted(VERBS)
    assert offered("tr") == ["train"]


def test_keys_are_offered_with_their_equals_sign():
    assert offered("train seed") == ["seed=", "seeds=", "seeds_max="]
    assert "norm=" in offered("train ") and "norm.eps=" in offered("train ")


def test_the_options_are_those_of_the_part_on_the_line():
    assert offered("train norm=gn norm.g") == ["norm.group_size=", "norm.groups="]
    assert offered("train norm.g") == []
    assert offered("train -m norm=gn,frn norm.learn") == ["norm.learn_eps="]
    assert offered("summary norm=ws+gn norm.gn.group_") == ["norm.gn.group_size="]


def test_names_of_parts_are_offered_also_behind_a_comma():
    assert offered("train norm=ghost") == ["norm=ghostbn"]
    assert offered("train -m norm=bn,ghost") == ["norm=bn,ghostbn"]
    assert set(offered("train norm=")) == {f"norm={each}" for each in registry.choices("norm")}


def test_values_are_those_that_are_allowed():
    assert offered("train lr_rule=") == ["lr_rule=linear", "lr_rule=none", "lr_rule=sqrt"]
    assert offered("train tb=") == ["tb=false", "tb=true"]
    assert offered("train norm.affine=t") == ["norm.affine=true"]
    assert "norm_batch=global" in offered("train norm_batch=")
    assert offered("train batch=") == ["batch=64"]
    assert offered("train nothing=") == []


def test_kinds_parts_data_and_shells_are_offered():
    assert offered("list no") == ["norms"]
    assert offered("list norms fr") == ["frn"]
    assert offered("data sh") == ["show"]
    assert offered("data show mn") == ["mnist"]
    assert offered("completion ") == sorted(SHELLS)
    assert offered("nothing ") == []


def test_the_command_prints_scripts_and_answers_queries(capsys):
    for shell in SHELLS:
        assert main(["completion", shell]) == 0
        assert capsys.readouterr().out == SCRIPTS[shell]
    assert main(["completion", "query", "--", "normbench train norm=ghost"]) == 0
    assert capsys.readouterr().out == "norm=ghostbn\n"


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [("normbench tr", "train"), ("normbench train norm=ghost", "ghostbn"), ("normbench x", "")],
)
def test_bash_replies_with_what_it_will_put_in(line, expected, tmp_path: Path):
    command = tmp_path / "normbench"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m normbench "$@"\n')
    command.chmod(0o755)
    script = f'{SCRIPTS["bash"]}\ncompopt() {{ :; }}\nCOMP_LINE="{line}" COMP_POINT=${{#1}}\n'
    script += '_normbench\necho "${COMPREPLY[*]}"\n'
    done = subprocess.run(
        ["bash", "-c", script, "-", line],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == expected
