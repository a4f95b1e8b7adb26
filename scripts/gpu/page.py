"""The page of a results file, in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from statistics import median
from typing import Any

WIDTH = 160  # characters of an error
ARITHMETIC = (
    "`precision=fp32` computes in float32 on a GPU as on a CPU: TF32, which rounds the inputs of "
    "convolutions and matrix products to ten bits, is off, and cuDNN takes only kernels that sum "
    "in a fixed order, so that equal runs on one GPU have equal bits. `precision=bf16` is torch's "
    "autocast: parameters, optimizer and statistics stay in float32."
)


def made(results: dict[str, Any]) -> str:
    """Return the page; a part that was not run is left out."""
    parts = (_head, _tests, _measured, _speed, _norms, _since)
    return "\n".join([*(line for part in parts for line in part(results)), ""])


def table(heads: list[str], rows: list[list[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "| " + " | ".join("---" for _ in heads) + " |"
    for row in rows:
        yield "| " + " | ".join("-" if value is None else str(value) for value in row) + " |"


def _head(results: dict[str, Any]) -> Iterator[str]:
    facts = results["facts"]
    yield "# On one GPU"
    yield ""
    yield ARITHMETIC
    yield ""
    yield "Made from one run of `python3 scripts/gpu` by `python3 scripts/gpu --page FILE`."
    yield ""
    if facts["device"] == "cpu":
        yield "**No GPU was there**: the sizes are tiny, and the numbers say nothing of a GPU."
        yield ""
    names = {"date": "date", "commit": "commit", "source": "SHA-256 of the package's files"}
    names |= {"gpus": "GPU, driver, memory", "torch": "torch", "torchvision": "torchvision"}
    names |= {
        "cuda": "CUDA",
        "cudnn": "cuDNN",
        "python": "Python",
        "cpu": "CPU",
        "cores": "CPU cores",
    }
    shown = {**facts, "gpus": "; ".join(facts["gpus"]) or None}
    yield from table(["what", "value"], [[names[key], shown.get(key)] for key in names])


def _tests(results: dict[str, Any]) -> Iterator[str]:
    found = results.get("tests")
    if not found or "collected" not in found:
        return
    yield from ("", "## Tests", "")
    counts = ", ".join(f"{found[key]} {key}" for key in ("passed", "failed", "skipped"))
    reported = sum(found[key] for key in ("passed", "failed", "skipped"))
    total = max(found["collected"], reported)
    yield f"Of {total} tests that need a GPU: {counts}, in {found['took_s']:.0f} s."
    if found["failures"]:
        failed = Counter(
            (test["test"].partition("[")[0].rpartition("/")[2], _said(test["lines"]))
            for test in found["failures"]
        )
        lines = [[f"`{test}`", count, f"`{why}`"] for (test, why), count in failed.most_common()]
        yield ""
        yield from table(["failed", "times", "why"], lines)
    if found["skips"]:
        yield ""
        yield from table(["skipped", "because"], [[n, why] for why, n in found["skips"].items()])


def _measured(results: dict[str, Any]) -> Iterator[str]:
    """What tests measured, whether they passed or failed."""
    groups: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for test, values in results.get("tests", {}).get("measured", {}).items():
        name, _, case = test.rpartition("::")[2].partition("[")
        for key, value in values.items():
            number = value[0] if isinstance(value, list) else value
            groups.setdefault((name, key), []).append((number, case.rstrip("]")))
    if not groups:
        return
    yield from ("", "## Losses on the GPU", "")
    yield (
        "Largest relative differences of training losses: to the same run on the CPU in float32, "
        "and those of bf16 to the run in fp32. Tests that failed are among them."
    )
    yield ""
    lines = []
    for (name, key), found in groups.items():
        largest, case = max(found)
        middle = median(number for number, _ in found)
        lines.append([f"`{name}`", key, len(found), f"{middle:.1e}", f"{largest:.1e}", case])
    yield from table(["test", "measured", "cases", "median", "largest", "of"], lines)


def _said(lines: list[str]) -> str:
    """The line of a failure that says what was wrong."""
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    text = (errors or lines or ["?"])[0].replace("|", "\\|").removeprefix("RuntimeError: ")
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


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
    if results["facts"]["device"] == "cuda":
        yield from _bound_by(found["rows"])
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


def _bound_by(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Say how long the device waits for the next kernel."""
    shares = {
        name: [
            row["kernels"][name]["busy_ms"] / row[name]["device_ms"]
            for row in rows
            if "busy_ms" in row["kernels"].get(name, {})
        ]
        for name in ("normbench", "expert")
    }
    if not all(shares.values()):
        return
    ours, theirs = (f"{100 * median(shares[name]):.0f} %" for name in shares)
    steps = [row["normbench"]["device_ms"] for row in rows]
    ratios = [row["ratio"] for row in rows]
    yield (
        f"A step of normbench takes {min(steps):.1f} to {max(steps):.1f} ms. The device is busy in "
        f"{ours} of it in the median, in {theirs} of a step of the expert's loop; for the rest it "
        "waits until Python has started the next kernel. Where that is most of a step, both loops "
        "are bound by the CPU: a larger batch takes no longer, a faster GPU gains nothing, and the "
        f"rates go up and down with the CPU. The ratios, from {min(ratios):.2f} to "
        f"{max(ratios):.2f} with a median of {median(ratios):.2f}, are no finer than that. CUDA "
        "graphs, which start all kernels of a step at once, are not used yet."
    )
    yield ""


def _since(results: dict[str, Any]) -> Iterator[str]:
    """What was changed after the run, as someone wrote it into the file."""
    if notes := results.get("since"):
        yield from ("", "## Changed since, and not run on a GPU again", "")
        yield from (f"- {note}" for note in notes)


def _norms(results: dict[str, Any]) -> Iterator[str]:
    found = results.get("comparison")
    if not found or "table" not in found:
        return
    label = found["label"]
    yield from ("", f"## Norms on {label}", "")
    if not found["table"]:
        yield f"No run had begun when the time was over, after {found['seconds']:.0f} s."
        return
    if found.get("cut_off"):
        yield "The time was over before all runs had finished; the table is that of those that had."
        yield ""
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
