"""Everything about one GPU: its tests, its speed, a comparison of norms; one file of results.

    python3 scripts/gpu --out gpu.json [--part tests:90,throughput,comparison] [--budget 500]
    python3 scripts/gpu --page gpu.json > docs/gpu.md

Nothing needs to be installed but the packages that normbench needs, and pytest. The results are
written after each part, and a part that fails is noted in them and stops nothing. Where there is
no GPU everything runs on the CPU at tiny sizes: that shows that the script works, nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("tests", "throughput", "comparison")
SHARES = {"tests": 0.25, "throughput": 0.3, "comparison": 1.0}  # of what is left of the budget


@dataclass(frozen=True)
class Task:
    """What a part is to do: on which device, in how many seconds, how thoroughly, with what."""

    device: str
    seconds: float
    quick: bool
    options: argparse.Namespace


def main() -> int:
    options = parsed()
    if options.page:
        import page

        print(page.made(json.loads(options.page.read_text())), end="")
        return 0
    start = time.monotonic()
    sys.path.insert(0, str(ROOT))
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in children
    import torch

    # Counted without a context on the GPU, and without asking CUDA itself: children are forked.
    device = "cuda" if torch.cuda.device_count() else "cpu"
    results: dict[str, Any] = {"schema": 1, "quick": options.quick, "facts": facts(device)}
    for name, given in options.part.items():
        left = options.budget - (time.monotonic() - start)
        last = name == list(options.part)[-1]
        seconds = given or (left if last else left * SHARES[name])
        print(f"== {name}: at most {seconds:.0f} s", flush=True)
        began = time.monotonic()
        results[name] = guarded(part(name), Task(device, seconds, options.quick, options))
        results[name]["took_s"] = round(time.monotonic() - began, 1)
        options.out.write_text(portable(json.dumps(results, indent=1, allow_nan=False)) + "\n")
        print(f"== {name}: {results[name]['took_s']} s, {results[name].get('error', 'done')}")
        if name == "tests":
            tell(results[name])
    return 1 if any("error" in results[name] for name in options.part) else 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser("scripts/gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="the file of results")
    parser.add_argument("--quick", action="store_true", help="fewer workloads")
    parser.add_argument(
        "--part", type=listed, default=dict.fromkeys(PARTS), help="NAME[:SECONDS],..."
    )
    parser.add_argument("--budget", type=float, default=500.0, help="seconds for the other parts")
    parser.add_argument("--data", type=Path, help="folder of cifar10-jpeg; synthetic without")
    parser.add_argument("--epochs", type=float, help="of the comparison; without: as fit")
    # The rate of He et al. 2016 at their batch: normbench's rule is linear, so this is 0.1 at 128.
    parser.add_argument("--lr", default="0.05", help="of the comparison for 64 examples, a list")
    parser.add_argument("--jobs", type=int, default=8, help="runs of the comparison at a time")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="print the page of a results file"
    )
    return parser.parse_args()


def listed(text: str) -> dict[str, float | None]:
    """The parts that are asked for, in their order, with its seconds if they are given."""
    asked = dict(word.partition(":")[::2] for word in text.split(","))
    if not set(asked) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"{text} names more than {', '.join(PARTS)}")
    return {name: float(asked[name]) if asked[name] else None for name in PARTS if name in asked}


def part(name: str) -> Callable[[Task], dict[str, Any]]:
    import checks
    import comparison
    import throughput

    parts = (checks.run, throughput.run, comparison.run)
    return dict(zip(PARTS, parts, strict=True))[name]


def guarded(work: Callable[[Task], dict[str, Any]], task: Task) -> dict[str, Any]:
    """What a part found, or why it failed."""
    try:
        return work(task)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}


def portable(text: str) -> str:
    """Leave out where things lie on this machine."""
    text = re.sub(r"[^\s\"']*/(?:site|dist)-packages/", "", text.replace(f"{ROOT}/", ""))
    return re.sub(rf"{re.escape(tempfile.gettempdir())}/[\w./-]+", "(temporary)", text)


def tell(found: dict[str, Any]) -> None:
    """Print the tests that failed, for whoever sees only what is printed."""
    counts = {key: found.get(key) for key in ("collected", "passed", "failed", "skipped", "exit")}
    print(
        counts,
        *[f"{test['test']}: {test['lines'][-1:]}" for test in found.get("failures", [])],
        sep="\n",
    )


def facts(device: str) -> dict[str, Any]:
    """What the numbers depend on."""
    import torch

    from normbench.runtime import machine

    known = machine.environment("cpu", 1)
    cards = said(
        "nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"
    )
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": said("git", "-C", str(ROOT), "rev-parse", "HEAD") or None,
        "device": device,
        "gpus": [card.strip() for card in cards.splitlines()],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device == "cuda" else None,
        "cores": machine.cores(),
        **{key: known[key] for key in ("normbench", "source", "torch", "torchvision", "cpu")},
        "python": platform.python_version(),
    }


def said(*words: str) -> str:
    """What a command prints, nothing if it is not there or fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
