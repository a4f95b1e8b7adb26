"""The command line: finds the file of a command and turns what it raises into an exit code."""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import NoReturn

from normbench import __version__
from normbench.errors import FileRefused, Mistake, NormbenchError, Refused

# A command is a file of this folder with `parser()` and `run(words)`; imported when it is called.
VERBS = {
    "train": "train one configuration, or a sweep with -m",
    "resume": "go on with a run or a sweep from its folder",
    "compare": "compare finished runs, paired by seed",
    "study": "test a claim of the literature: plan, run, verdict",
    "book": "write all verdicts as one page",
    "report": "write tables, figures and commands of finished runs as one page",
    "plot": "draw one figure of finished runs",
    "power": "tell how many seeds a difference takes",
    "status": "tell the state of runs, sweeps and their cells",
    "verify": "check every file and digest of runs",
    "eval": "ask finished runs something new from their weights, train nothing",
    "export": "write the weights of a finished run as safetensors",
    "summary": "show the layers of a configuration, train nothing",
    "probe": "measure layers at their start or in finished runs, train nothing",
    "list": "list norms, inits, models, data and optimizers",
    "data": "list, download, verify or show data sets",
    "bench": "time norm layers, or whole training steps",
    "doctor": "tell what this machine can run",
    "completion": "print the script that completes words in bash, zsh or fish",
}
PRINTING = ("-h", "--help", "help", "-V", "--version", "list", "completion")
FIRST = """\
normbench settles arguments about normalization and initialization by running \
the experiment.

usage: normbench COMMAND [KEY=VALUE ...] [options]

{verbs}

first examples:
  normbench train norm=gn batch=2
  normbench train -m norm=none,bn,gn batch=2,32 seeds=5
  tensorboard --logdir outputs/runs

`normbench COMMAND --help` explains a command, `normbench --version` tells the \
version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; leaves signals, `sys.argv` and the environment as they are.

    Returns: the exit code (design: 0 done, 1 failed, 2 refused, ...).
    Raises: SystemExit after `--help`.
    """
    verb, *words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        if verb not in PRINTING and not {"-h", "--help"} & {*words}:
            _check_folder()
        return copy_context().run(_command(verb), words)  # which ends what it sets there
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
    """Run the command of this process, which SIGTERM and a closed terminal end in good order."""
    _open_streams()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup leaves it
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    code = main()
    for stream in (sys.stdout, sys.stderr):
        # The reader of our output may have gone, or the disk be full.
        with suppress(OSError, ValueError):
            stream.flush()
    # With torch, taking the interpreter apart costs a second, and a thread that gloo has left
    # behind would now and then abort it.
    os._exit(code)


def _open_streams() -> None:
    """Put `/dev/null` where a standard stream is closed: no file may get its number."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _check_folder() -> None:
    """Raise FileRefused where the working directory was removed: torch cannot be loaded there."""
    try:
        os.getcwd()
    except OSError:
        why = "the working directory does not exist any more"
        raise FileRefused(".", why, "cd, to a folder that exists") from None


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
    from normbench.settings.described import fitted

    lines = []
    for line in FIRST.splitlines():
        verbs = line == "{verbs}"
        lines += [fitted(text, f"  {verb:<10} ") for verb, text in VERBS.items()] if verbs else []
        lines += [] if verbs else [line if line[:2] == "  " else fitted(line)]
    return _said("\n".join(lines))


def _version(_: list[str]) -> int:
    return _said(f"normbench {__version__}")


def _said(text: str) -> int:
    from normbench.display.console import Sink

    Sink(sys.stdout, vital=True).write(f"{text}\n")
    return 0
