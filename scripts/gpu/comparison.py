"""Eight norms on one residual net and the CIFAR-10 JPEG copy, by normbench's own command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
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
START_S, SPARE = 25.0, 0.75  # what the start of a sweep takes, and how much of the rest is planned


def run(task: Task) -> dict[str, Any]:
    """Train as many epochs as the time allows, several runs at a time; return the table."""
    start = time.monotonic()
    small = task.device == "cpu"
    data, label = chosen(task.options.data, small)
    norms, seeds = (NORMS[:2], 2) if small else (NORMS, SEEDS)
    jobs = 2 if small else task.options.jobs
    words = [*RECIPE, "model=resnet20", *data, f"device={task.device}", f"jobs={jobs}"]
    words += [f"norm={','.join(norms)}", f"optimizer.lr={task.options.lr}"]
    runs = len(norms) * seeds * len(task.options.lr.split(","))
    with tempfile.TemporaryDirectory() as folder:
        rate: float | None = None
        length = "steps=3" if small else f"epochs={task.options.epochs}"
        if not small and task.options.epochs is None:
            asked = [*words, f"steps={PROBE}", "eval_every=1000"]
            trained(Path(folder) / "probe", [*asked, f"log_every={WARM}"], task.seconds)
            rate = together(Path(folder) / "probe")
            left = task.seconds - (time.monotonic() - start)
            length = f"epochs={epochs(runs, rate, left)}"
        left = task.seconds - (time.monotonic() - start)
        asked = [*words, f"seeds={seeds}", length]
        began = time.monotonic()
        code, said = trained(Path(folder) / "runs", asked, left)
        took = time.monotonic() - began
        rows = results(Path(folder) / "runs")
        tables = [each.read_text() for each in (Path(folder) / "runs").glob("sweeps/*/table.md")]
    found = {
        "label": label,
        "settings": asked,
        "jobs": jobs,
        "exit": code,
        "seconds": round(took, 1),
    }
    found |= {"steps_per_s_together": rate, "rows": rows, "table": summary(rows), "tables": tables}
    return {**found, **({} if code == 0 else {"said": said, "error": f"ended with code {code}"})}


def chosen(folder: Path | None, small: bool) -> tuple[list[str], str]:
    """The words that choose the data, and what it is called wherever a number of it stands."""
    if small or folder is None:
        shape = "[3,8,8]" if small else "[3,32,32]"
        return ["data=synthetic", f"data.shape={shape}"], "synthetic"
    return ["data=imagefolder", f"data.path={folder.resolve()}"], "cifar10-jpeg"


def epochs(runs: int, rate: float, seconds: float) -> int:
    """How many epochs all runs have time for together, at least one."""
    return max(1, int((seconds - START_S) * SPARE * rate / (runs * (45_000 // BATCH))))


def trained(outputs: Path, words: list[str], seconds: float) -> tuple[int, str]:
    """Run the command, stop it when the time is over; return its code and its last words."""
    outputs.mkdir()
    root = outputs.parent / "data"  # where decoded images are kept
    command = [sys.executable, "-m", "normbench", "train", "--no-color", "-m", *words]
    if "data=imagefolder" in words:
        command.append(f"data.root={root}")
    print(" ".join(command), flush=True)
    with (outputs / "said").open("w+") as said:
        process = subprocess.Popen(
            [*command, f"outputs={outputs}"], cwd=ROOT, stdout=said, stderr=said
        )
        try:
            code = process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            code = process.wait(30)
        said.seek(0)
        end = said.read()[-3000:]
    print(end[-1500:], flush=True)
    return code, end


def together(outputs: Path) -> float:
    """Steps per second of all runs of a probe, which went on side by side."""
    rates = []
    for file in outputs.glob("runs/*/*/timing.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [row for row in rows if "train_s" in row]
        first, last = rows[0], rows[-1]
        rates.append((last["step"] - first["step"]) / (last["train_s"] - first["train_s"]))
    if not rates:
        raise RuntimeError("no run of the probe has told its rate")
    return round(sum(rates), 1)


def results(outputs: Path) -> list[dict[str, Any]]:
    """What each run came to."""
    rows = []
    for file in sorted(outputs.glob("runs/*/*/status.json")):
        status = json.loads(file.read_text())
        final = status.get("final") or {}
        timing = (file.parent / "timing.jsonl").read_text().splitlines()
        last = json.loads(timing[-1]) if timing else {}
        settings = yaml.safe_load((file.parent / "config.yaml").read_text())["experiment"]
        row = {"norm": settings["norm"]["name"], "lr": settings["optimizer"]["lr"]}
        row["seed"] = settings["seed"]
        row |= {key: status.get(key) for key in ("state", "message", "step")}
        names = ("test/accuracy", "test/loss", "val/accuracy", "train/loss")
        row |= {name: final.get(name) for name in names}
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
