"""Eight norms on one residual net and the CIFAR-10 JPEG copy, by normbench's own command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from __main__ import Task

ROOT = Path(__file__).resolve().parents[2]
NORMS = ("none", "bn", "ln", "in", "gn", "brn", "frn", "wn")
SEEDS, BATCH = 3, 128
RECIPE = (f"batch={BATCH}", "augment=crop+flip", "tb=false")
PROBE, WARM = 150, 50  # steps of the runs that tell the rate, and how many of them are not timed
SPARE = 0.75  # how much of the time that is left after the start is planned
STOP_S = 30.0  # that a command has to end in once it is told to


def run(task: Task) -> dict[str, Any]:
    """Train as many epochs as the time allows, several runs at a time; return the table.

    The images are decoded first, by a run of their own, and a probe tells the rate and how long
    a start takes. When the time is over, the table is that of the runs that have finished.
    """
    small = task.device == "cpu"
    data, label = chosen(task.options.data, small)
    norms, seeds = (NORMS[:2], 2) if small else (NORMS, SEEDS)
    jobs = 2 if small else task.options.jobs
    # Seeds change slowest: a sweep that is cut off has the first of them for every norm.
    recipe = [f"seed={','.join(map(str, range(seeds)))}", f"norm={','.join(norms)}"]
    recipe += [*RECIPE, "model=resnet20", f"optimizer.lr={task.options.lr}"]
    recipe += [f"device={task.device}", f"jobs={jobs}"]
    length = "steps=3" if small else f"epochs={task.options.epochs}"
    found: dict[str, Any] = {"label": label, "jobs": jobs, "steps_per_s_together": None}
    with tempfile.TemporaryDirectory() as folder:
        commands = Commands(Path(folder), data, time.monotonic() + task.seconds)
        if label != "synthetic":
            commands.train("decoded", ["model=mlp", "norm=none", "steps=1", "device=cpu"])
        if not small and task.options.epochs is None:
            probe = [word for word in recipe if not word.startswith("seed=")]
            probe += [f"steps={PROBE}", "eval_every=1000", f"log_every={WARM}"]
            commands.train("probe", probe)
            rate = together(commands.outputs("probe"))
            found["steps_per_s_together"] = rate
            runs = len(norms) * seeds * len(task.options.lr.split(","))
            left = commands.left - (commands.told["probe"]["start_s"] or 0.0)
            length = f"epochs={epochs(runs, rate or 0.0, left)}"
        commands.train("runs", [*recipe, length])
        rows = results(commands.outputs("runs"))
        tables = [path.read_text() for path in commands.outputs("runs").glob("sweeps/*/table.md")]
    told = commands.told["runs"]
    found |= {"settings": [*recipe, *hidden(data), length], "commands": commands.told}
    found |= {"rows": rows, "table": summary(rows), "tables": tables, "seconds": told["seconds"]}
    found["cut_off"] = told["cut_off"]
    finished = any(row["state"] == "finished" for row in rows)
    failed = told["exit"] and not (told["cut_off"] and finished)
    return {**found, **({"error": f"ended with code {told['exit']}"} if failed else {})}


@dataclass
class Commands:
    """Runs commands in a folder until the time is over, and keeps what became of each."""

    folder: Path
    data: list[str]
    end: float  # of the time, by the monotonic clock

    def __post_init__(self) -> None:
        self.told: dict[str, dict[str, Any]] = {}

    @property
    def left(self) -> float:
        """Seconds until the time is over."""
        return self.end - time.monotonic()

    def outputs(self, name: str) -> Path:
        """Return where the runs of a command lie."""
        return self.folder / name

    def train(self, name: str, words: list[str]) -> None:
        """Run `normbench train` on the data; stop it when the time is over."""
        words = ["-m", *words, *self.data, f"data.root={self.folder / 'data'}"]
        words += [f"outputs={self.outputs(name)}"]
        if "data=synthetic" in words:
            words = [word for word in words if not word.startswith("data.root=")]
        command = [sys.executable, "-m", "normbench", "train", "--no-color", *words]
        print(" ".join(command), flush=True)
        began, cut_off = time.time(), False
        self.outputs(name).mkdir()
        with (self.outputs(name) / "said").open("w+") as said:
            process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
            try:
                process.wait(max(1.0, self.left))
            except subprocess.TimeoutExpired:
                cut_off = True
                stop(process)
            said.seek(0)
            end = said.read()[-3000:]
        print(end[-1500:], flush=True)
        code, took = process.returncode, round(time.time() - began, 1)
        told: dict[str, Any] = {"exit": code, "seconds": took, "cut_off": cut_off}
        starts = [started(file) - began for file in self.outputs(name).glob("runs/*/*/status.json")]
        told["start_s"] = max(0.0, round(min(starts), 1)) if starts else None
        self.told[name] = {**told, **({"said": end} if code else {})}


def stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a command, and kill it if that does not end it."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def started(status: Path) -> float:
    """When a run began, in seconds since 1970."""
    text = json.loads(status.read_text())["started_at"]
    return datetime.fromisoformat(text).timestamp()


def chosen(folder: Path | None, small: bool) -> tuple[list[str], str]:
    """The words that choose the data, and what it is called wherever a number of it stands."""
    if small or folder is None:
        shape = "[3,8,8]" if small else "[3,32,32]"
        return ["data=synthetic", f"data.shape={shape}"], "synthetic"
    return ["data=imagefolder", f"data.path={folder.resolve()}"], "cifar10-jpeg"


def hidden(data: list[str]) -> list[str]:
    """The same words without folders of this machine."""
    return ["data.path=cifar10-jpeg" if word.startswith("data.path=") else word for word in data]


def epochs(runs: int, rate: float, seconds: float) -> int:
    """How many epochs all runs have time for together, at least one."""
    return max(1, int(seconds * SPARE * rate / (runs * (45_000 // BATCH))))


def together(outputs: Path) -> float | None:
    """Steps per second of all runs of a probe, which went on side by side; None if none got so far.

    The sweep then takes one epoch, and what of it there is when the time is over.
    """
    rates = []
    for file in outputs.glob("runs/*/*/timing.jsonl"):
        rows = [row for row in lines(file) if "train_s" in row]
        if len(rows) > 1:
            first, last = rows[0], rows[-1]
            rates.append((last["step"] - first["step"]) / (last["train_s"] - first["train_s"]))
    return round(sum(rates), 1) if rates else None


def lines(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, none if it is not there; a last line that is not whole is left out."""
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def results(outputs: Path) -> list[dict[str, Any]]:
    """What each run came to; of one that was stopped, its last accuracy of the validation."""
    rows = []
    for file in sorted(outputs.glob("runs/*/*/status.json")):
        status = json.loads(file.read_text())
        times = lines(file.parent / "timing.jsonl")
        final = status.get("final") or {}
        metrics = lines(file.parent / "metrics.jsonl")
        seen = [row["val/accuracy"] for row in metrics if "val/accuracy" in row]
        settings = yaml.safe_load((file.parent / "config.yaml").read_text())["experiment"]
        row = {"norm": settings["norm"]["name"], "lr": settings["optimizer"]["lr"]}
        row["seed"] = settings["seed"]
        row |= {key: status.get(key) for key in ("state", "message", "step", "started_at")}
        names = ("test/accuracy", "test/loss", "train/loss")
        row |= {name: final.get(name) for name in names}
        row["val/accuracy"] = final.get("val/accuracy", seen[-1] if seen else None)
        first, last = (times[0], times[-1]) if times else ({}, {})
        row["first_row_s"] = first.get("wall_s")
        rows.append({**row, "train_s": last.get("train_s"), "wall_s": last.get("wall_s")})
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation of the test accuracy by norm and learning rate, best first."""
    found = []
    for norm, lr in {(row["norm"], row["lr"]) for row in rows}:
        mine = [row for row in rows if (row["norm"], row["lr"]) == (norm, lr)]
        values = [row["test/accuracy"] for row in mine if row["test/accuracy"] is not None]
        states = sorted({row["state"] for row in mine})
        line: dict[str, Any] = {"norm": norm, "lr": lr, "seeds": len(values), "states": states}
        line["mean"] = round(mean(values), 4) if values else None
        line["sd"] = round(stdev(values), 4) if len(values) > 1 else None
        found.append(line)
    return sorted(found, key=lambda line: (-(line["mean"] or 0.0), line["norm"], line["lr"]))
