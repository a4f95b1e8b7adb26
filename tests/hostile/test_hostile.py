"""300 hostile command lines and files, made with a fixed seed: two lines each, never a trace."""

from __future__ import annotations

import io
import random
import shlex
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from omegaconf import DictConfig

from normbench.cli.main import main
from normbench.parts import registry
from normbench.settings.composer import Composer
from normbench.settings.declared import defaults
from normbench.settings.suggest import ALIASES, options_everywhere

pytestmark = pytest.mark.slow
WORDS = 500  # that are misspelt
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
        code = main(["train", *words])
    return code, err.getvalue()


def check(words: list[str]) -> None:
    code, text = said([*BASE, *words])
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


def wrong(dice: random.Random) -> str:
    """Misspell the name of a part or of a setting."""
    if dice.random() < 0.5:
        group = dice.choice(list(registry.KINDS))
        return f"{group}={misspelt(dice.choice(registry.choices(group)), dice)}"
    value = dice.choice(["2", "0.1", "true", "gn", "x"])
    return f"{misspelt(dice.choice(settings()), dice)}={value}"


def suggested(text: str) -> list[list[str]]:
    """Return the ways that an error tells to try, none where it tells of something else."""
    fix = next(line for line in text.splitlines() if line.startswith("  try: "))
    ways = fix.removeprefix("  try: ").partition("    ")[0].split(" or ")
    return [words for words in map(shlex.split, ways) if "=" in words[0]]


def instead(line: list[str], words: list[str]) -> list[str]:
    """Put words into a command line in place of those with the same keys."""
    keys = {word.partition("=")[0] for word in words}
    return [*(word for word in line if word.partition("=")[0] not in keys), *words]


def test_no_suggestion_for_a_misspelling_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    composed: dict[tuple[str, ...], DictConfig] = {}
    load = Composer._load

    def kept(self: Composer, words: Sequence[str]) -> DictConfig:
        """Compose the same few choices once, which is most of the time that a word takes."""
        if tuple(words) not in composed:
            composed[tuple(words)] = load(self, words)
        return composed[tuple(words)]

    monkeypatch.setattr(Composer, "_load", kept)
    dice, made, refused = random.Random(0), 0, []
    for word in [wrong(dice) for _ in range(WORDS)]:
        line = instead(BASE, [word])
        code, text = said(line)
        for way in suggested(text) if code == 2 else []:
            better = instead([each for each in line if each != word], way)
            code, text = said(better)
            if code == 2:  # a part that is meant may not fit the rest, known once it is built
                others = [said(instead(better, other))[0] for other in suggested(text)]
                code = min(others, default=2)
            if code not in (0, 3, 4):
                refused.append((word, way, text))
            made += 1
    assert not refused
    assert made > WORDS / 2
