"""300 hostile command lines and files, made with a fixed seed: two lines each, never a trace."""

from __future__ import annotations

import io
import random
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from normbench.cli.main import main
from normbench.parts import registry
from normbench.settings.declared import defaults
from normbench.settings.suggest import ALIASES, options_everywhere

pytestmark = pytest.mark.slow
SEEDS = 4  # of 25 misspellings each; more by hand: a seed takes ten seconds
BASE = ["data=synthetic", "model=mlp", "steps=2", "device=cpu", "tb=false", "dry_run=true"]
ODD = (
    "",
    "é",
    "\x1b[31m",
    "${batch}",
    "${oc.env:HOME}",
    "[",
    "{a:1}",
    "'",
    "a b",
    ",",
    "=",
    "\t",
    "~",
)
VALUES = ("two", "1e400", "-1", "nan", "null", "true", "[1,2]", "1.5", "2**64", "10k", "None", *ODD)
HYDRA = (
    *("hydra.job.chdir", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.mode"),
    *("hydra.launcher.n_jobs", "hydra.sweeper.params", "hydra.sweeper.n_trials", "hydra.verbose"),
    *("hydra.searchpath", "hydra.output_subdir", "hydra.job.env_set", "hydra.job.env_copy"),
    *("hydra.callbacks.x._target_", "hydra.launcher._target_", "hydra.nosuch.key", "hydra.help"),
    *("hydra/launcher", "hydra/sweeper", "hydra/job_logging", "hydra/nosuch", "hydra"),
)
YAML = (
    b"batch: 2\n\tsteps: 3\n", b"batch: 2\nbatch: 3\n", b"# caf\xe9\nbatch: 2\n", b"- batch\n",
    "batch: 2\n".encode("utf-16"), b"batch: [\n", b"{", b"batch: !!python/name:os.system\n", b"",
    b"a: &a [*a]\n", b"batch: ${nosuch}\n", b"defaults: [nosuch]\n", b"defaults: 3\n", b"\x00",
    b"defaults: [{override /norm: gm}]\n", b"norm: 3\n", b"hydra: 3\n", b"hydra: {job: 3}\n",
    b"hydra: {sweeper: {params: {norm: 'bn,gm'}}}\n", b"hydra: {sweeper: {params: 3}}\n",
    b"hydra: {run: {dir: /proc/x}}\n", b"_target_: os.system\n", b"norm: {name: gm}\n",
)  # fmt: skip


def misspelt(word: str, dice: random.Random) -> str:
    """Swap, drop, double or change a letter."""
    place = dice.randrange(len(word))
    letter = dice.choice("abcdefghijklmnopqrstuvwxyz_")
    return word[:place] + dice.choice(["", letter, word[place] * 2]) + word[place + 1 :]


def settings() -> list[str]:
    return [*registry.KINDS, *defaults(), *options_everywhere(), *ALIASES]


def lines() -> Iterator[list[str]]:
    """Yield command lines that are wrong, or odd, in one or two places."""
    dice = random.Random(15)
    for number in range(250):
        kind = number % 5
        key = dice.choice(settings())
        if kind == 0:
            word = f"{misspelt(key, dice)}={dice.choice(VALUES)}"
        elif kind == 1:
            word = f"{key}={dice.choice(VALUES)}"
        elif kind == 2:
            group = dice.choice(list(registry.KINDS))
            word = f"{group}={misspelt(dice.choice(registry.choices(group)), dice)}"
        elif kind == 3:
            word = dice.choice(["", "", "+", "++", "~"]) + dice.choice(HYDRA)
            word += "=" + dice.choice(("x", "true", "3", "/proc/x", "[a]", "{a: b}", *VALUES))
        else:
            word = dice.choice([f"--{key}", f"--{key}=2", f"-{key}", f"+{key}=2", f"~{key}", key])
        sweep = dice.choice([[], [], ["-m"], ["-m", "norm=bn,gn"]])
        yield [*sweep, word]


def said(words: list[str]) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["train", *BASE, *words])
    return code, err.getvalue()


def check(words: list[str]) -> None:
    code, text = said(words)
    assert "Traceback" not in text
    assert code in (0, 2, 3, 4), text
    if code:
        wrong = [line for line in text.splitlines() if line.startswith("normbench: error: ")]
        assert wrong and len(text.splitlines()) <= 2 * len(wrong) + 1 + text.count("warning")


@pytest.mark.parametrize("words", list(lines()), ids=shlex.join)
def test_a_hostile_command_line_gets_two_lines(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check(words)


@pytest.mark.parametrize("place", ["experiment", "norm"])
@pytest.mark.parametrize("number", range(len(YAML)))
def test_a_hostile_file_gets_two_lines(
    number: int, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "conf" / place / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"# @package _global_\n" * (place == "experiment") + YAML[number])
    for words in ([], ["-m"]):
        check([*words, f"{place}=mine", "--config-dir", "conf"])


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_suggestion_for_a_misspelling_is_refused(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dice = random.Random(seed)
    tried = made = 0
    while tried < 25:
        if dice.random() < 0.5:
            group = dice.choice(list(registry.KINDS))
            word = f"{group}={misspelt(dice.choice(registry.choices(group)), dice)}"
        else:
            value = dice.choice(["2", "0.1", "true", "gn", "x"])
            word = f"{misspelt(dice.choice(settings()), dice)}={value}"
        kept = [base for base in BASE if base.partition("=")[0] != word.partition("=")[0]]
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(["train", *kept, word])
        tried += 1
        fixes = [line for line in err.getvalue().splitlines() if line.startswith("  try: ")]
        if code != 2 or "=" not in fixes[0].partition("    ")[0]:
            continue
        fix = shlex.split(fixes[0].removeprefix("  try: ").partition("    ")[0])
        if fix[0] in ("pip", "normbench"):
            continue
        keys = {each.partition("=")[0] for each in fix}
        line = [base for base in kept if base.partition("=")[0] not in keys]
        with redirect_stdout(out), redirect_stderr(err := io.StringIO()):
            assert main(["train", *line, *fix]) in (0, 3, 4), (word, fix, err.getvalue())
        made += 1
    assert made > 5
