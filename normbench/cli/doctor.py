"""`normbench doctor`: versions, devices, workers, storage, data, and whether it trains."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from normbench import __version__
from normbench.cli.parser import Parser, outputs, screen
from normbench.display.screen import Screen
from normbench.errors import NormbenchError, counted, first_line
from normbench.parts import registry
from normbench.runs import run as runs
from normbench.runs.reader import read_status
from normbench.runtime import machine, storage
from normbench.settings import compose, schema

EXAMPLES = ("normbench doctor", "normbench doctor --json")
STATES = {"ok": " ok   ", "note": " note ", "fail": " FAIL "}
LEAST_FREE_GIB = 1.0  # a sweep of some hundred runs with TensorBoard's files fits in
TINY = (
    "data=synthetic",
    "model=mlp",
    "norm=bn",
    "batch=32",
    "steps=20",
    "eval_every=10",
    "capture=on",
    "tb=false",
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `ok`, worth a `note`, or `fail`, and what there is to say."""

    state: str
    text: str


def parser() -> Parser:
    """Return the parser of the command's words."""
    return Parser("doctor", "Tell what this machine can run.", EXAMPLES)


def run(words: list[str]) -> int:
    """Look at what this machine can run."""
    options = parser().parsed(words)
    return show(outputs(options), screen(options))


def show(outputs: str, screen: Screen) -> int:
    """Print all findings; return the exit code, 4 if something failed."""
    findings = []
    for finding in look(Path(outputs)):
        findings.append(finding)
        screen.statement(f"{STATES[finding.state]} {finding.text}")
    screen.document(
        {"command": "doctor", "findings": [vars(finding) for finding in findings]},
    )
    return 4 if any(finding.state == "fail" for finding in findings) else 0


def look(outputs: Path) -> Iterator[Finding]:
    """Yield a finding for each thing looked at; short trainings come last."""
    yield from _versions()
    yield from _devices()
    yield from _storage(outputs)
    yield from _data()
    yield from _foreign()
    yield _tried("20 training steps", _trained)
    if sys.platform == "linux":
        two = ("gpus=2", "device=cpu", "norm=syncbn")
        yield _tried("20 steps of two processes (gloo)", lambda: _trained(*two))


def _versions() -> Iterator[Finding]:
    known = machine.environment("cpu", 1)
    packages = ", ".join(f"{name} {known[name]}" for name in machine.PACKAGES)
    yield Finding("ok", f"normbench {__version__}, python {known['python']}, {packages}")


def _devices() -> Iterator[Finding]:
    import torch  # here, so that a command line that is refused does not wait for it

    cores = machine.cores()
    yield Finding("ok", f"{counted(cores, 'CPU core')}: {machine.environment('cpu', 1)['cpu']}")
    for number in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(number)
        yield Finding("ok", f"CUDA device {number}: {known.name}, {known.total_memory >> 30} GiB")
    if not torch.cuda.device_count():
        yield Finding("note", "no CUDA device: gpus=N runs N processes on the CPU (gloo)")
    if torch.backends.mps.is_available():
        yield Finding("ok", "an mps device")
    yield Finding("ok", f"back ends of workers: {', '.join(_back_ends())}")
    yield Finding("ok", "bf16 by autocast" + (" on CUDA" if torch.cuda.is_available() else ""))


def _back_ends() -> list[str]:
    from normbench.runtime import collectives

    return collectives.back_ends()


def _storage(outputs: Path) -> Iterator[Finding]:
    existing = next(path for path in (outputs, *outputs.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".normbench-") as folder:
            storage.write_atomic(Path(folder) / "probe", "written\n")
    except (OSError, NormbenchError):
        yield Finding("fail", f"{outputs} is not writable: use --outputs DIR")
        return
    free = shutil.disk_usage(existing).free / 2**30
    state = "ok" if free >= LEAST_FREE_GIB else "fail"
    yield Finding(state, f"{outputs} is writable, {free:.1f} GiB are free")


def _data() -> Iterator[Finding]:
    for name in registry.names("data"):
        try:
            about = schema.data_about({"data": {"name": name}})
            if about.here:
                yield Finding("ok", f"data={name}: {'/'.join(map(str, about.sizes))} images")
            else:
                yield Finding("note", f"data={name} is not here: normbench data download {name}")
        except NormbenchError as error:
            yield Finding("note", f"data={name}: {error.mistakes[0].why}; {error.mistakes[0].fix}")


def _foreign() -> Iterator[Finding]:
    for group in registry.KINDS:
        for name in registry.names(group):
            try:
                package = registry.facts(group, name).package
            except Exception as error:  # what another package raises is its own
                yield Finding("fail", f"{group}={name} cannot be loaded: {first_line(error)}")
                continue
            if package != "normbench":
                yield Finding("ok", f"{group}={name} from {package}")


def _tried(what: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding("ok", f"{what}: {attempt()}")
    except Exception as error:  # whatever it is, the user wants to read it here
        return Finding("fail", f"{what}: {first_line(error)}")


def _trained(*settings: str) -> str:
    with tempfile.TemporaryDirectory(prefix="normbench-") as folder:
        words = [*TINY, *settings, f"outputs='{folder}'"]
        words = list({word.partition("=")[0]: word for word in words}.values())
        (cell,) = compose.Grid(compose.loader()).cells(words, multirun=False)
        assert cell.config
        state = runs.run(cell.config)
        status = read_status(cell.config.directory)
    assert status
    return "; ".join([f"{state} on {cell.config.device}", *status["warnings"]])
