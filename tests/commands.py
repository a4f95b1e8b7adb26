"""Runs whole commands: in forks of one process that has torch loaded, or in new processes.

`normbench(...)` costs some 50 ms, for it forks a process that has imported everything already; a
new process would spend 3 to 8 seconds on importing torch. The process that is forked trains
nothing itself, since autograd cannot be used on both sides of a fork. What a test does to a
process from outside (signals, its own streams) takes a new one: `started(...)`.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

LIMIT_S = 300  # of what takes a second on a machine that has nothing else to do


def normbench(
    *words: str, cwd: Path, limits: Mapping[str, int] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end in a fork, as `normbench WORDS` in the folder `cwd` would.

    Args: limits: of resources, such as `RLIMIT_NOFILE`; `RLIMIT_AS` in bytes beyond what is there.
    """
    with tempfile.TemporaryDirectory(prefix="normbench-test-") as folder:
        streams = [str(Path(folder, name)) for name in ("out", "err")]
        order = {"words": words, "cwd": str(cwd), "env": {**os.environ, **env}, "streams": streams}
        order["limits"] = dict(limits or {})
        server = _server()
        assert server.stdin and server.stdout
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        out, err = (Path(name).read_text(encoding="utf-8") for name in streams)
    return subprocess.CompletedProcess(["normbench", *words], code, out, err)


def document(*words: str, cwd: Path, **env: str) -> Any:
    """Run a command with `--json` and return what it printed."""
    done = normbench(*words, "--json", cwd=cwd, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def started(*words: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command in a process of its own, which says nothing unless `options` have pipes."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-m", "normbench", *words], **{**silent, **options})


def until(found: Callable[[], Any]) -> Any:
    """Wait until `found` returns something, and return that."""
    limit = time.monotonic() + LIMIT_S
    while not (something := found()):
        assert time.monotonic() < limit, f"it did not come to that in {LIMIT_S} s"
        time.sleep(0.02)
    return something


def run_with(path: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one command in a new process that finds packages in the folder `path` first."""
    return subprocess.run(
        [sys.executable, "-m", "normbench", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


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
    import hydra  # noqa: F401  (loaded for the children)
    import torch

    from normbench.runs import run  # noqa: F401
    from normbench.runs.tensorboard import load_tensorboard
    from normbench.sweeps import scheduler  # noqa: F401

    load_tensorboard()
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _be_command(order)
        signal.signal(signal.SIGALRM, lambda *_, pid=child: os.kill(pid, signal.SIGKILL))
        signal.alarm(LIMIT_S)
        _, status = os.waitpid(child, 0)
        signal.alarm(0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _be_command(order: dict[str, Any]) -> None:
    """Do what `python -m normbench` does; never returns."""
    code = 1
    try:
        for number, name in enumerate(["/dev/null", *order["streams"]]):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
            os.dup2(os.open(name, flags), number)
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        sys.argv = ["normbench", *order["words"]]
        for name, most in order["limits"].items():
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
