"""The command line: finds the file of a command and turns what it raises into an exit code."""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from normbench import __version__
from normbench.errors import Mistake, NormbenchError, Refused

# A command is a file of this folder with `parser()` and `run(words)`; imported when it is called.
VERBS = {
    "train": "train one configuration, or a sweep with -m",
    "resume": "go on with a run or a sweep from its folder",
    "compare": "compare finished runs, paired by seed",
    "report": "write tables, figures and commands of finished runs as one page",
    "plot": "draw one figure of finished runs",
    "power": "tell how many seeds a difference takes",
    "status": "tell the state of runs, sweeps and their cells",
    "verify": "check every file and digest of runs",
    "eval": "ask finished runs something new from their weights, train nothing",
    "export": "write the weights of a finished run as safetensors",
    "summary": "show the layers of a configuration, train nothing",
    "list": "list norms, inits, models, data and optimizers",
    "data": "list, download, verify or show data sets",
    "bench": "time norm layers, or whole training steps",
    "doctor": "tell what this machine can run",
    "completion": "print the script that completes words in bash, zsh or fish",
}
FIRST = """\
normbench settles arguments about normalization and initialization by running the experiment.

usage: normbench COMMAND [KEY=VALUE ...] [options]

{verbs}

first examples:
  normbench train norm=gn batch=2
  normbench train -m norm=none,bn,gn batch=2,32 seeds=5
  tensorboard --logdir outputs/runs

`normbench COMMAND --help` explains a command, `normbench --version` tells the version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; leaves signals, `sys.argv` and the environment as they are.

    Returns: the exit code (design: 0 done, 1 failed, 2 refused, ...).
    Raises: SystemExit after `--help`.
    """
    verb, *words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        return _command(verb)(words)
    except NormbenchError as error:
        from normbench.display.screen import Screen

        screen = Screen(color=False if "--no-color" in words else None)
        screen.error(error, verbose=not {"-v", "--verbose"}.isdisjoint(words))
        return error.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def program() -> NoReturn:
    """Run the command of this process, which SIGTERM ends in good order."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    code = main()
    with suppress(BrokenPipeError):  # the reader of our output has gone
        sys.stdout.flush()
        sys.stderr.flush()
    # With torch, taking the interpreter apart costs a second, and a thread that gloo has left
    # behind would now and then abort it.
    os._exit(code)


def _command(verb: str) -> Callable[[list[str]], int]:
    """Return what runs a command.

    Raises: Refused if there is no such command.
    """
    if verb in ("-h", "--help", "help"):
        return _overview
    if verb in ("-V", "--version"):
        return _version
    if verb in VERBS:
        run: Callable[[list[str]], int] = pkgutil.resolve_name(f"normbench.cli.{verb}:run")
        return run
    if verb == "sweep":
        fix = "normbench train -m norm=bn,gn batch=2,32"
        raise Refused(Mistake(verb, "is not a command", fix))
    from normbench.parts.options import near

    meant = near(verb, VERBS)
    fix = f"normbench {meant}    (all commands: normbench --help)" if meant else "normbench --help"
    raise Refused(Mistake(verb, "no command has this name", fix))


def _overview(_: list[str]) -> int:
    print(FIRST.format(verbs="\n".join(f"  {verb:<10} {text}" for verb, text in VERBS.items())))
    return 0


def _version(_: list[str]) -> int:
    print(f"normbench {__version__}")
    return 0
