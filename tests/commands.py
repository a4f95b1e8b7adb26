"""Runs whole commands in forks of one process that has imported torch and normbench already.

A command costs some 50 ms so; a new process would spend 3 to 8 seconds on importing torch. The
process that is forked trains nothing itself, since autograd cannot be used on both sides of a fork.
`normbench(...)` waits for the end; `started(...)` does not, for what a test does to a command
from outside. The few tests of a start itself (its streams, what it imports) run `python -m
normbench` on their own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from audited import watch

LIMIT_S = 300  # of what takes a second on a machine that has nothing else to do
_LOCK = threading.Lock()  # some tests run commands in threads


def normbench(
    *words: str, cwd: Path, limits: Mapping[str, int] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, as `normbench WORDS` in the folder `cwd` would.

    Args: limits: of resources, such as `RLIMIT_NOFILE`; `RLIMIT_AS` in bytes beyond what is there.
    """
    return _ended(words, cwd=str(cwd), env={**os.environ, **env}, limits=dict(limits or {}))


def run_with(path: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end that finds packages in the folder `path` first."""
    return _ended(words, cwd=str(cwd), path=str(path))


def _ended(words: tuple[str, ...], **order: Any) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory(prefix="normbench-test-") as folder:
        streams = [str(Path(folder, name)) for name in ("out", "err")]
        code = Command(words, streams=streams, **order).wait()
        out, err = (Path(name).read_text(encoding="utf-8") for name in streams)
    return subprocess.CompletedProcess(["normbench", *words], code, out, err)


def document(*words: str, cwd: Path, **env: str) -> Any:
    """Run a command with `--json` and return what it printed."""
    done = normbench(*words, "--json", cwd=cwd, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def started(*words: str, **options: Any) -> Command:
    """Start a command that says nothing unless `streams` names two files; options of `Command`."""
    return Command(words, **options)


class Command:
    """A command that runs: what `subprocess.Popen` has of the same names.

    Options: `session` makes it the head of a process group and session; `ignored` are the signals
    that it is started with, as nohup does; `path` is where it finds packages first; `audit` the
    file for its events, see `audited.py`.
    """

    def __init__(
        self,
        words: tuple[str, ...],
        *,
        cwd: str | Path = ".",
        env: dict[str, str] | None = None,
        streams: list[str] | None = None,
        **options: Any,
    ) -> None:
        order = {
            "words": words,
            "cwd": str(Path(cwd).resolve()),
            "env": dict(env or os.environ),
            "streams": [str(each) for each in streams or (os.devnull, os.devnull)],
        }
        self.pid: int = _asked(order | options)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self.returncode is None:
            self.returncode = _asked({"ended": self.pid})
        return self.returncode

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Wait for the end and return the exit code; kill what takes longer."""
        limit = time.monotonic() + limit_s
        while (code := self.poll()) is None:
            if time.monotonic() > limit:
                self.kill()
                raise AssertionError(f"it did not end in {limit_s} s")
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


def until(found: Callable[[], Any]) -> Any:
    """Wait until `found` returns something, and return that."""
    limit = time.monotonic() + LIMIT_S
    while not (something := found()):
        assert time.monotonic() < limit, f"it did not come to that in {LIMIT_S} s"
        time.sleep(0.02)
    return something


def _asked(order: dict[str, Any]) -> Any:
    """What the process that is forked answers."""
    with _LOCK:
        server = _server()
        assert server.stdin and server.stdout
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())


@cache
def _server() -> subprocess.Popen[str]:
    """Start the process that is forked, once for each process of tests."""
    code = "from commands import serve; serve()"
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C at the tests is theirs to handle
    )
    atexit.register(server.kill)
    return server


def serve() -> None:
    """Import what commands import, then fork a child for each order until the input ends."""
    import torch

    import normbench
    from normbench.runs import columns, tensorboard
    from normbench.runtime import machine

    for module in pkgutil.walk_packages(normbench.__path__, "normbench."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    normbench.config("data=synthetic")
    columns.columns()
    tensorboard.load_tensorboard()
    machine.environment("cpu", 1)
    torch.set_num_threads(1)
    gc.freeze()  # else each child goes through all of it, and copies those pages
    for line in sys.stdin:
        order = json.loads(line)
        if "ended" in order:
            pid, status = os.waitpid(order["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif not (answer := os.fork()):
            _be_command(order)
        print(json.dumps(answer), flush=True)


def _be_command(order: dict[str, Any]) -> None:
    """Do what `python -m normbench` does; never returns."""
    code = 1
    try:
        _stand(order)
        if "path" in order:
            sys.path.insert(0, order["path"])
            for name in [each for each in sys.modules if each.partition(".")[0] == "normbench"]:
                del sys.modules[name]
        if "audit" in order:
            watch(order["audit"])
        sys.argv = ["normbench", *order["words"]]
        for name, most in order.get("limits", {}).items():
            if name == "RLIMIT_AS":
                most += (
                    int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                )
            resource.setrlimit(getattr(resource, name), (most, most))
        try:
            runpy.run_module("normbench", run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _stand(order: dict[str, Any]) -> None:
    """Give the process its group, signals, streams, folder and environment."""
    if order.get("session"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # even if a shell's `&` began this
    for number in order.get("ignored", ()):
        signal.signal(number, signal.SIG_IGN)
    for number, name in enumerate([os.devnull, *order["streams"]]):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        os.dup2(os.open(name, flags), number)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
