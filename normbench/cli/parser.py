"""Reads the words of a command: options that all commands share, messages and help in our form."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from normbench.errors import Mistake, Refused, shown
from normbench.runtime import watching

if TYPE_CHECKING:
    from normbench.display.screen import Screen


class Parser(argparse.ArgumentParser):
    """argparse with the options that all commands share, our messages, and examples in the help.

    Args: verb: the command. text: one sentence on what it does. examples: command lines, one a
        line. overrides: whether the command takes settings as KEY=VALUE. settings: gives what
        stands below the examples.
    """

    def __init__(
        self,
        verb: str,
        text: str,
        examples: Sequence[str],
        *,
        overrides: bool = False,
        settings: Callable[[], str] = str,
    ) -> None:
        super().__init__(
            prog=f"normbench {verb}", description=text, add_help=False, allow_abbrev=False
        )
        self.verb, self.examples, self.settings = verb, examples, settings
        self.overrides = overrides
        self.add_argument("-h", "--help", action=_Help)
        if overrides:
            self.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
        self.add_argument("-q", "--quiet", action="store_true", help="errors and the result only")
        self.add_argument("-v", "--verbose", action="store_true", help="with the trace of errors")
        self.add_argument("--json", action="store_true", help="one JSON document on stdout")
        self.add_argument("--no-color", action="store_true", help="no colours")
        self.add_argument("--outputs", metavar="DIR", help="where runs lie (default: outputs)")
        own = "your own parts, such as DIR/norms/NAME.py; runs their code"
        self.add_argument("--parts", metavar="DIR", help=own)

    def parsed(self, words: list[str]) -> argparse.Namespace:
        """Read the words of a command; options may stand between its other words.

        Raises: Refused if they cannot be read; SystemExit after `--help`.
        """
        for word in words:
            if word.startswith("--experimental-rerun"):
                why = "is not offered: it would run a stored file"
                raise Refused(Mistake(word, why, f"{self.prog} --help"))
        switches: dict[str, str] = {}
        if self.overrides:
            words = self._without_switches(words, switches)
        options = self.parse_intermixed_args(words)
        if switches and self.verb != "train":  # which says with them what else is wrong
            why, fix = "is not an option; settings are KEY=VALUE", f"{self.prog} --help"
            given = (f"{name} {value}".strip() for name, value in switches.items())
            raise Refused(*(Mistake(word, why, fix) for word in given))
        options.switches = switches
        if options.parts:
            from normbench.parts import users

            users.add(options.parts)
        return options

    def _without_switches(self, words: list[str], switches: dict[str, str]) -> list[str]:
        """Move words such as `--gpus 2`, which are no options, from `words` to `switches`."""
        kept: list[str] = []
        rest = iter(range(len(words)))
        for place in rest:
            name, equals, value = words[place].partition("=")
            known = name in self._option_string_actions or (
                name[1:2] != "-" and all(f"-{c}" in self._option_string_actions for c in name[1:])
            )
            if not name.startswith("-") or known:
                kept.append(words[place])
                continue
            following = words[place + 1 : place + 2]
            if not equals and following and not {"=", "-"} & {following[0][:1], *following[0]}:
                value = following[0]
                next(rest)
            switches[name] = value
        return kept

    def error(self, message: str) -> NoReturn:
        """Raise Refused instead of printing usage."""
        raise Refused(Mistake(self.verb, shown(message), f"{self.prog} --help"))

    def format_help(self) -> str:
        """Give usage and options, then the examples and the settings."""
        examples = "".join(map(_example, self.examples))
        return f"{super().format_help()}\nexamples:\n{examples}\n{self.settings()}".rstrip() + "\n"


def _example(line: str) -> str:
    """Put what explains a command line behind it, or below where both together are too long."""
    from normbench.settings.described import fitted, width

    command, _, comment = line.partition("  ")
    if len(line) <= width() - 2:
        return f"  {line}\n"
    below = f"\n      {comment.strip()}" if comment else ""
    return fitted(command, "  ", " " * 6, spare=2).replace("\n", " \\\n") + below + "\n"


def settings() -> str:
    """List the parts of each group, and the settings with their defaults."""
    from normbench.parts import registry
    from normbench.settings.declared import default_parts
    from normbench.settings.described import described, explained, fitted

    groups = [
        line
        for group, name in default_parts().items()
        for line in explained(f"{group}={name}", " ".join(registry.choices(group)))
    ]
    groups += explained("experiment=NAME", f"{' '.join(registry.presets())} (kept settings)")
    return "\n".join(
        [fitted("parts: GROUP=NAME, options GROUP.OPTION=VALUE (normbench list norms NAME)")]
        + [*groups, ""]
        + ["settings: KEY=VALUE", *described()]
    )


class _Help(argparse.Action):
    """Prints the help of a command and ends it."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show this help")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from normbench.display.console import Sink

        Sink(sys.stdout, vital=True).write(parser.format_help())
        parser.exit()


def outputs(options: argparse.Namespace) -> str:
    """Return the folder of outputs that the option or the environment names, or the usual one."""
    return str(options.outputs or os.environ.get("NORMBENCH_OUTPUTS") or "outputs")


def add_place(parser: Parser) -> None:
    """Let a command take the folder that it looks at."""
    text = "a run, a sweep, or a folder of outputs, which is the default"
    parser.add_argument("place", nargs="?", metavar="DIR", help=text)


def place(options: argparse.Namespace) -> Path:
    """Return the folder that a command looks at."""
    return Path(options.place or outputs(options))


def screen(options: argparse.Namespace, vital: bool = True) -> Screen:
    """Return the screen that the shared options ask for; it follows the work of the command.

    Args: vital: whether a command has failed whose result cannot be printed.
    """
    from normbench.display.screen import Screen

    color = False if options.no_color else None
    made = Screen(quiet=options.quiet, json=options.json, color=color, vital=vital)
    watching.watcher.set(made)
    return made
