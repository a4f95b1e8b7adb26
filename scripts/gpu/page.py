"""The page of a results file, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def made(results: dict[str, Any]) -> str:
    """Return the page; a part that was not run is left out."""
    return "\n".join([*_head(results), *_tests(results), *_speed(results), *_norms(results), ""])


def table(heads: list[str], rows: list[list[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "| " + " | ".join("---" for _ in heads) + " |"
    for row in rows:
        yield "| " + " | ".join("-" if value is None else str(value) for value in row) + " |"


def _head(results: dict[str, Any]) -> Iterator[str]:
    facts = results["facts"]
    yield "# On one GPU"
    yield ""
    yield "Made from one run of `python3 scripts/gpu` by `python3 scripts/gpu --page FILE`."
    yield ""
    if facts["device"] == "cpu":
        yield "**No GPU was there**: the sizes are tiny, and the numbers say nothing of a GPU."
        yield ""
    names = {"date": "date", "gpus": "GPU, driver, memory", "torch": "torch", "cuda": "CUDA"}
    names |= {"cudnn": "cuDNN", "python": "Python", "cpu": "CPU", "cores": "CPU cores"}
    shown = {**facts, "gpus": "; ".join(facts["gpus"]) or None}
    yield from table(["what", "value"], [[names[key], shown[key]] for key in names])


def _tests(results: dict[str, Any]) -> Iterator[str]:
    found = results.get("tests")
    if not found or "collected" not in found:
        return
    yield from ("", "## Tests", "")
    counts = ", ".join(f"{found[key]} {key}" for key in ("passed", "failed", "skipped"))
    yield f"Of {found['collected']} tests that need a GPU: {counts}, in {found['took_s']:.0f} s."
    if found["failures"]:
        yield ""
        yield from table(
            ["failed", "why"],
            [[f"`{each['test']}`", f"`{_said(each['lines'])}`"] for each in found["failures"]],
        )
    if found["skips"]:
        yield ""
        yield from table(["skipped", "because"], [[n, why] for why, n in found["skips"].items()])


def _said(lines: list[str]) -> str:
    """The line of a failure that says what was wrong."""
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (errors or lines or ["?"])[0].replace("|", "\\|")


def _speed(results: dict[str, Any]) -> Iterator[str]:
    found = results.get("throughput")
    if not found or "rows" not in found:
        return
    yield from ("", "## Steps per second", "")
    yield (
        "Steps of normbench and of an expert's loop in turn: torch's modules, fused SGD, images as "
        "floats on the device, channels-last, and nothing read back. `TF32` is the expert's loop "
        "with TF32 and with kernels that cuDNN chooses by trial, which normbench keeps off so that "
        "fp32 means fp32 and equal runs have equal bits. `busy` is how long the kernels of a step "
        "keep the device busy, so 1000 / busy is the most steps per second that these kernels can "
        f"do. `apart` is the largest relative difference of the losses of the first five steps. "
        f"Medians over {found['steps']} steps."
    )
    yield ""
    heads = ["model", "batch", "norm", "precision", "normbench", "expert", "ratio", "expert TF32"]
    heads += ["kernels", "busy, ms", "expert's kernels", "busy, ms", "apart"]
    rows = []
    for row in found["rows"]:
        ours, theirs = (row["kernels"].get(name, {}) for name in ("normbench", "expert"))
        line = [row[key] for key in heads[:4]]
        line += [row["normbench"]["steps_per_s"], row["expert"]["steps_per_s"], row["ratio"]]
        line += [row["expert_tf32"]["steps_per_s"], ours.get("count"), ours.get("busy_ms")]
        line += [theirs.get("count"), theirs.get("busy_ms"), f"{row['losses_apart']:.1e}"]
        rows.append(line)
    yield from table(heads, rows)
    if found["left_out"]:
        yield ""
        yield f"Left out, for lack of time where no reason stands: {', '.join(found['left_out'])}."


def _norms(results: dict[str, Any]) -> Iterator[str]:
    found = results.get("comparison")
    if not found or "table" not in found:
        return
    label = found["label"]
    yield from ("", f"## Norms on {label}", "")
    yield f"    normbench train -m {' '.join(found['settings'])}"
    yield ""
    if label == "cifar10-jpeg":
        yield (
            "`cifar10-jpeg` is CIFAR-10 with its images encoded anew as JPEG: its accuracies are "
            "slightly lower than those of CIFAR-10 and no match for published ones."
        )
        yield ""
    yield (
        f"{found['jobs']} runs at a time on the one device, {found['seconds']:.0f} s in all. The "
        "learning rate is that of 64 examples and rises with the batch; it is the same for all "
        "norms, as He et al. 2016 set it for batch normalization, and tuned for none of them."
    )
    yield ""
    rows = []
    for line in found["table"]:
        percent = [
            None if line[key] is None else f"{100 * line[key]:.2f}" for key in ("mean", "sd")
        ]
        states = ", ".join(line["states"])
        rows.append([line["norm"], line["lr"], *percent, line["seeds"], states])
    heads = [
        "norm",
        "learning rate",
        f"test accuracy on {label}, %",
        "standard deviation",
        "seeds",
        "state",
    ]
    yield from table(heads, rows)
