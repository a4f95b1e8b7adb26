"""The command line: one function per verb, each of which imports its room when it is called."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from normbench import __version__
from normbench.errors import Mistake, NormbenchError, Refused, shown

if TYPE_CHECKING:
    from normbench.display.progress import Screen
    from normbench.sweeps.plan import Sweep

VERBS = {
    "train": "train one configuration, or a sweep with -m",
    "summary": "show the layers of a configuration, train nothing",
    "list": "list norms, inits, models, data and optimizers",
    "data": "list, download, verify or show data sets",
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
LISTS = {
    "norms": "norm",
    "inits": "init",
    "models": "model",
    "data": "data",
    "optimizers": "optimizer",
}
EXAMPLES = {
    "train": """\
examples:
  normbench train norm=gn batch=2
  normbench train norm=gn norm.groups=4 model=mlp model.depth=5 epochs=3
  normbench train -m model=mlp norm=none,bn,gn batch=2,32 seeds=5
  normbench train data=imagefolder data.path=DIR model=resnet20 steps=200
  normbench train --cfg job norm=frn            print the composed settings

""",
    "summary": """\
examples:
  normbench summary model=blog6 norm=bn
  normbench summary model=resnet20 norm=gn data=synthetic
  normbench summary model=cnn norm=bn --diff norm=frn
""",
    "list": """\
examples:
  normbench list norms
  normbench list norms gn
  normbench list models --json
""",
    "data": """\
examples:
  normbench data list
  normbench data download cifar10               into data/, or $NORMBENCH_DATA, or --root DIR
  normbench data verify mnist
  normbench data show mnist -o mnist.png
  normbench data show imagefolder data.path=DIR
""",
    "doctor": """\
examples:
  normbench doctor
  normbench doctor --json
""",
    "completion": """\
examples:
  eval "$(normbench completion bash)"           in ~/.bashrc; the same for zsh
  normbench completion fish | source            in ~/.config/fish/config.fish
""",
}

codes: list[int] = []  # exit codes of the jobs that Hydra ran


@dataclass
class Session:
    """What `train` knows before Hydra takes over: the screen, and the checked runs."""

    screen: Screen
    sweep: Sweep
    multirun: bool


session: Session | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (design: 0 done, 1 failed, 2 refused, ...)."""
    words = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return _dispatch(words)
    except NormbenchError as error:
        from normbench.display.progress import Screen

        screen = Screen(color=False if "--no-color" in words else None)
        screen.error(error, verbose=not {"-v", "--verbose"}.isdisjoint(words))
        return error.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        verbs = "\n".join(f"  {verb:<9} {what}" for verb, what in VERBS.items())
        print(FIRST.format(verbs=verbs))
        return 0
    if words[0] in ("-V", "--version"):
        print(f"normbench {__version__}")
        return 0
    verb, *rest = words
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": train,
        "summary": summary,
        "list": list_parts,
        "data": data,
        "doctor": doctor,
        "completion": completion,
    }
    if verb == "sweep":
        raise Refused(Mistake("sweep", "is no command", "normbench train -m norm=bn,gn batch=2,32"))
    if verb not in commands:
        from normbench.parts.options import nearest

        fix = f"normbench {nearest(verb, commands)}    (all commands: normbench --help)"
        raise Refused(Mistake(verb, "no command has this name", fix))
    return commands[verb](rest)


def train(argv: list[str]) -> int:
    """Train one configuration, or every cell of a sweep."""
    parser = _parser("train", "Train one configuration, or with -m every combination of lists.")
    parser.add_argument("-m", "--multirun", action="store_true", help="run all combinations")
    parser.add_argument("--cfg", choices=("job", "hydra", "all"), help="print the settings only")
    parser.add_argument("--package", metavar="GROUP", help="with --cfg: only this group")
    parser.add_argument("--info", nargs="?", const="all", metavar="WHAT", help="explain Hydra's")
    parser.add_argument("--config-dir", metavar="DIR", help="your own configuration files")
    options = _parsed(parser, argv)
    _with_outputs(options)
    if _follows():
        options.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    explains = options.cfg is not None or options.info is not None
    if not explains and not _prepared(options):
        return 0
    return _hydra(options)


def _prepared(options: argparse.Namespace) -> bool:
    """Check every cell before Hydra starts; False if there is nothing to start."""
    global session
    from normbench.cli import data as data_sets
    from normbench.settings import compose
    from normbench.sweeps import describe, plan, sweep

    cells = compose.Grid(compose.loader(options.config_dir)).cells(
        options.overrides, options.multirun
    )
    work = plan.Sweep(cells)
    absent = data_sets.missing(cell.config for cell in work.cells if cell.left)
    warnings = sweep.check(work)
    session = Session(_screen(options), work, options.multirun)
    for warning in warnings:
        session.screen.warn(warning.text)
    if any(cell.config.dry_run for cell in work.cells):
        session.screen.text("\n".join(describe.plan_lines(work)))
        return False
    data_sets.fetch(absent, session.screen)
    return True


def _hydra(options: argparse.Namespace) -> int:
    """Hand over to Hydra, which composes again and calls `task` or our launcher."""
    from unittest.mock import patch

    import hydra

    from normbench.parts import registry

    logging.raiseExceptions = False  # Hydra prints --info by logging; `| head` is no error
    os.environ["HYDRA_FULL_ERROR"] = "1"  # a defect comes up with its own traceback
    sys.argv = ["normbench train", *_for_hydra(options)]
    codes.clear()
    with patch.object(argparse.ArgumentParser, "_check_help", lambda *_: None, create=True):
        hydra.main(config_path=str(registry.configs()), config_name="train", version_base="1.3")(
            task
        )()
    worth_it = session and (session.multirun or session.sweep.tunings or not any(codes))
    if session and worth_it and not _follows():
        from normbench.sweeps import sweep

        sweep.conclude(session.sweep, session.screen, session.multirun)
    return max(codes, default=0)


def _follows() -> bool:
    """Whether torchrun made of this process a worker other than the first, which alone speaks."""
    from normbench.runtime import machine

    place = machine.place()
    return place is not None and place.rank > 0


def task(composed: Any) -> int:
    """Train one composed configuration, in the process that a launcher chose."""
    try:
        code = _task(composed)
    except NormbenchError as error:
        print(error, file=sys.stderr)
        code = error.code
    codes.append(code)
    return code


def _task(composed: Any) -> int:
    from omegaconf import OmegaConf

    from normbench.settings import compose
    from normbench.sweeps import plan

    if session and not session.multirun:  # composed and checked before, in this very process
        return _train(session.sweep, session.screen)
    tree = OmegaConf.to_container(OmegaConf.create(composed), resolve=True)
    cell = compose.composed({str(key): value for key, value in tree.items()})  # type: ignore[union-attr]
    return _train(plan.Sweep([cell]), _screen(argparse.Namespace(quiet=True)))


def run_cells(rows: Sequence[Sequence[str]]) -> list[int]:
    """Train the checked sweep for our launcher; one exit code per row."""
    assert session
    code = _train(session.sweep, session.screen)
    return [code] * len(rows)


def _train(work: Sweep, screen: Screen) -> int:
    from normbench.sweeps import sweep

    if work.tunings:
        sweep.choose(work, screen)
    if len(work.items) == 1 and not work.skipped:
        sweep.single(work.items[0], screen)
    elif work.items:
        sweep.many(work, screen)
    done = [*work.tuning_items, *work.items]
    return 1 if any(item.state == "failed" for item in done) else 0


def summary(argv: list[str]) -> int:
    """Show the layers of a configuration."""
    parser = _parser("summary", "Show layers, output shapes, parameters and buffers.")
    parser.add_argument(
        "--diff", nargs="+", metavar="KEY=VALUE", help="beside it, with this changed"
    )
    parser.add_argument("--config-dir", metavar="DIR", help="your own configuration files")
    options = _parsed(parser, argv)
    from normbench.cli import overview
    from normbench.settings import compose

    composer = compose.Grid(compose.loader(options.config_dir))
    overview.show(composer, options.overrides, options.diff or [], _screen(options))
    return 0


def list_parts(argv: list[str]) -> int:
    """List the parts of a kind, or explain one."""
    parser = _parser("list", "List the parts of a kind, or explain one part.", overrides=False)
    parser.add_argument("kind", choices=tuple(LISTS), metavar="KIND", help=" ".join(LISTS))
    parser.add_argument("name", nargs="?", metavar="NAME")
    options = _parsed(parser, argv)
    from normbench.cli import list

    list.show(LISTS[options.kind], options.name, _screen(options))
    return 0


def data(argv: list[str]) -> int:
    """List the data sets; download, verify or show one."""
    parser = _parser("data", "List the data sets; download, verify or show one.", overrides=False)
    verbs = ("list", "download", "verify", "show")
    parser.add_argument("what", choices=verbs, metavar="|".join(verbs))
    parser.add_argument("words", nargs="*", metavar="NAME [data.OPTION=VALUE ...]")
    parser.add_argument("--root", metavar="DIR", help="data.root: folder of downloaded sets")
    parser.add_argument("-o", dest="picture", metavar="FILE.png", help="show: write a picture")
    options = _parsed(parser, argv)
    from normbench.cli import data as data_sets

    names = [word for word in options.words if "=" not in word]
    overrides = [word for word in options.words if "=" in word]
    overrides += [_quoted("data.root", options.root)] if options.root else []
    data_sets.command(options.what, names, overrides, options.picture, _screen(options))
    return 0


def doctor(argv: list[str]) -> int:
    """Look at what this machine can run."""
    parser = _parser("doctor", "Tell what this machine can run.", overrides=False)
    options = _parsed(parser, argv)
    from normbench.cli import doctor as look

    return look.show(
        options.outputs or os.environ.get("NORMBENCH_OUTPUTS") or "outputs", _screen(options)
    )


def completion(argv: list[str]) -> int:
    """Print the script of a shell, or what fits the end of a line, for that script."""
    from normbench.cli import completion as offered

    parser = _parser("completion", "Print the script that completes words.", overrides=False)
    parser.add_argument("shell", choices=(*offered.SHELLS, "query"), metavar="SHELL")
    parser.add_argument("line", nargs="?", default="", help="for query: the line to its cursor")
    options = _parsed(parser, argv)
    if options.shell == "query":
        print("\n".join(offered.offers(options.line, VERBS, LISTS)))
    else:
        print(offered.SCRIPTS[options.shell], end="")
    return 0


class _Parser(argparse.ArgumentParser):
    """argparse with our form of messages."""

    def error(self, message: str) -> NoReturn:
        """Raise Refused instead of printing usage."""
        verb = self.prog.split()[-1]
        raise Refused(Mistake(verb, shown(message), f"normbench {verb} --help"))


class _Help(argparse.Action):
    """Prints the help with examples and, for `train`, every setting."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show this help")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        verb = parser.prog.split()[-1]
        text = parser.format_help() + "\n" + EXAMPLES[verb]
        if verb == "train":
            text += _settings()
        print(text.rstrip())
        parser.exit()


def _settings() -> str:
    """The settings with their defaults, as the packaged file says them."""
    from normbench.parts import registry

    lines = (registry.configs() / "train.yaml").read_text(encoding="utf-8").splitlines()
    first, last = lines.index("# what is trained"), lines.index("hydra:")
    groups = [f"{group:<10} {' '.join(registry.choices(group))}" for group in registry.KINDS]
    return "\n".join(
        ["parts: GROUP=NAME, options GROUP.OPTION=VALUE (normbench list norms NAME)", *groups, ""]
        + ["settings: KEY=VALUE", *map(_as_override, lines[first:last])]
    )


def _as_override(line: str) -> str:
    if line.startswith(("#", " ")):
        return line
    within = re.match(r"(\w+): {(\w+): (\w+)}(.*)", line)
    return "{}.{}={}    {}".format(*within.groups()) if within else line.replace(": ", "=", 1)


def _parser(verb: str, text: str, overrides: bool = True) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"normbench {verb}", description=text, add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action=_Help)
    if overrides:
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("-q", "--quiet", action="store_true", help="errors and the result only")
    parser.add_argument("-v", "--verbose", action="store_true", help="with the trace of errors")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--no-color", action="store_true", help="no colours")
    parser.add_argument("--outputs", metavar="DIR", help="where runs lie (default: outputs)")
    return parser


def _parsed(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    for word in argv:
        if word.startswith("--experimental-rerun"):
            raise Refused(
                Mistake(word, "is not offered: it would run a stored file", f"{parser.prog} --help")
            )
    return parser.parse_intermixed_args(argv)


def _with_outputs(options: argparse.Namespace) -> None:
    """Let `--outputs` and `$NORMBENCH_OUTPUTS` become an override; the command line wins."""
    given = [text for text in options.overrides if text.startswith("outputs=")]
    place = options.outputs or (not given and os.environ.get("NORMBENCH_OUTPUTS"))
    if place:
        options.overrides.append(_quoted("outputs", place))


def _quoted(key: str, text: str) -> str:
    """An override whose value is read as it stands."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return f"{key}={QuotedString(text, Quote.single).with_quotes()}"


def _for_hydra(options: argparse.Namespace) -> list[str]:
    words = ["--multirun"] if options.multirun else []
    words += [
        f"--{name}={value}"
        for name, value in (
            ("cfg", options.cfg),
            ("package", options.package),
            ("info", options.info),
            ("config-dir", options.config_dir),
        )
        if value
    ]
    return [*words, *options.overrides]


def _screen(options: argparse.Namespace) -> Screen:
    from normbench.display.progress import Screen

    color = False if getattr(options, "no_color", False) else None
    return Screen(quiet=options.quiet, json=getattr(options, "json", False), color=color)
