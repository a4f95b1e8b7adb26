"""Starts Hydra on a checked command line, and says in two lines what it then finds wrong."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from normbench.errors import Mistake, NormbenchError, Refused

if TYPE_CHECKING:
    from normbench.sweeps.command import Command


@contextmanager
def starting(
    task: Callable[[Any], Any], options: argparse.Namespace, command: Command | None
) -> Iterator[Callable[[], object]]:
    """Give what composes again and calls `task` or our launcher; leaves the process as it was.

    Raises: Refused for what Hydra raises itself; what a run raises comes through as it is.
    """
    from hydra.core.global_hydra import GlobalHydra

    words, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    raises, before = logging.raiseExceptions, GlobalHydra.instance().hydra
    level, handlers = logging.root.level, [*logging.root.handlers]
    try:
        sys.argv = ["normbench train", *_for_hydra(options)]
        os.environ["HYDRA_FULL_ERROR"] = "1"  # a defect comes up with its own traceback
        logging.raiseExceptions = False  # Hydra prints --info by logging; `| head` is no error
        GlobalHydra.instance().clear()
        if command:
            command.holds = not command.multirun  # Hydra would say in its own words what a run says
        yield _start(task, options, command)
        if command and command.raised:
            raise command.raised
    except NormbenchError:
        raise
    except Exception as error:
        if command is not None and command.raised is error:
            raise
        raise _refused(error, options.overrides) from error
    finally:
        sys.argv, logging.raiseExceptions = words, raises
        logging.root.setLevel(level)  # `--info` has Hydra log to stderr, other libraries with it
        logging.root.handlers[:] = handlers
        GlobalHydra.instance().hydra = before
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _start(
    task: Callable[[Any], Any], options: argparse.Namespace, command: Command | None
) -> Callable[[], object]:
    """Give what lets Hydra explain itself, or start a command as `hydra.main` would.

    That composes everything once more to learn whether there is a sweep, which is known.
    """
    import hydra
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra

    from normbench.parts import registry
    from normbench.settings import composer

    if command is None:
        made = hydra.main(str(registry.configs()), config_name="train", version_base="1.3")(task)
        return cast(Callable[[], object], made)
    version.setbase("1.3")
    app = Hydra("normbench", composer.loader(options.config_dir))
    GlobalHydra.instance().initialize(app)
    begin, mode = (app.multirun, "MULTIRUN") if command.multirun else (app.run, "RUN")
    return partial(begin, "train", task, [*options.overrides, f"hydra.mode={mode}"])


def _refused(error: Exception, words: Sequence[str]) -> Refused:
    """Say what Hydra found wrong only when it started, and with which of the words."""
    from normbench.settings import composer

    keys = ("hydra", composer.PRESETS)
    why, own = composer.said(error), [word for word in words if word.lstrip("+~").startswith(keys)]
    if isinstance(error, OSError) and error.filename:
        why = f"{error.filename}: {(error.strerror or why).lower()}"
        own = [word for word in own if str(error.filename) in word] or own
    return Refused(Mistake(" ".join(own) or "train", why, composer.ALL_OF_HYDRA))


def _for_hydra(options: argparse.Namespace) -> list[str]:
    words = ["--multirun"] if options.multirun else []
    for name in ("cfg", "package", "info", "config_dir"):
        if value := getattr(options, name):
            words.append(f"--{name.replace('_', '-')}={value}")
    return [*words, *options.overrides]
