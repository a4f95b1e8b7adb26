"""Every setting of a run: its type, default, range and one sentence of help, declared once.

`configs/train.yaml` repeats names and defaults for Hydra; a test says what is missing there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from normbench.parts import registry
from normbench.parts.options import Declared, declarations
from normbench.settings.fields import AUTO, chosen, judged, recorded, trained

GROUPS = tuple(registry.KINDS)
INPUTS = ("standardized", "raw", "uneven", "per_feature", "whitened")
MEETING = "workers of a run meet at this port of the machine; null: in a file"
PORT = Declared("dist.port", "int | None", None, {"low": 1024, "high": 65535, "help": MEETING})
RECORDING = ("diagnose", "eval_every", "log_every")  # what says which rows a training records


@dataclass(frozen=True)
class Settings:
    """All settings as they can be given: parts with their options, then values.

    Parts are mappings with their `name` and options, `dist` is one with its settings.
    """

    model: Mapping[str, Any] = chosen("model", "cnn")
    norm: Mapping[str, Any] = chosen("norm", "bn")
    init: Mapping[str, Any] = chosen("init", "kaiming_normal")
    data: Mapping[str, Any] = chosen("data", "mnist")
    optimizer: Mapping[str, Any] = chosen("optimizer", "sgd")
    activation: Mapping[str, Any] = chosen("activation", AUTO)
    schedule: Mapping[str, Any] = chosen("schedule", "cosine")
    order: Mapping[str, Any] = chosen("order", "iid")
    dist: Mapping[str, Any] = field(default_factory=lambda: {"port": PORT.default})
    batch: int = trained(
        64, low=1, high=1_000_000, help="examples per optimizer step, all workers together"
    )
    gpus: int = trained(
        1,
        low=1,
        high=512,
        help="workers that train one run together; each gets batch / gpus examples",
    )
    accumulate: int = trained(
        1, low=1, high=100_000, help="micro-batches per step; gradients are averaged over them"
    )
    norm_batch: int | str = trained(
        "worker",
        low=1,
        high=1_000_000,
        choices=("worker", "global"),
        help="examples per batch statistic: worker, global (all workers), or a number",
    )
    lr_rule: str = trained(
        "linear",
        choices=("none", "linear", "sqrt"),
        help="none, linear, sqrt: lr = optimizer.lr * f(batch / lr_base_batch)",
    )
    lr_base_batch: int = trained(
        64, low=1, high=1_000_000, help="the batch for which optimizer.lr is meant"
    )
    tune: str = trained(
        "none",
        choices=("none", "lr"),
        help="lr: each configuration gets the optimizer.lr of tune_lrs that validates best",
    )
    tune_lrs: list[float] | None = trained(
        None,
        above=0,
        high=1e30,
        help="the grid, such as [0.01,0.1]; null: 0.03, 0.1, 0.3, 1 and 3 x optimizer.lr",
    )
    tune_seeds: int = trained(
        3,
        low=1,
        high=100,
        help="runs at each value, with seeds of their own and without the test set",
    )
    warmup: float = trained(
        0.1, low=0, below=1, help="share of the steps in which the learning rate rises, linearly"
    )
    warmup_least: int = trained(
        40,
        low=0,
        high=1_000_000_000,
        help="but at least so many steps, at most half of all; onecycle: the share alone",
    )
    clip: float | None = trained(
        None,
        above=0,
        high=1e30,
        help="largest norm of the gradient; a longer one is shortened to it",
    )
    placement: str = trained(
        "auto",
        choices=("auto", "pre", "post", "preact"),
        help="norm before (pre) or after (post) the activation, or first in a block (preact)",
    )
    bias: str = trained(
        "auto",
        choices=("auto", "on", "off"),
        help="on, off; auto: off where the norm comes next and removes any constant",
    )
    dropout: float = trained(0.0, low=0, below=1, help="probability, after each activation")
    noise: float = trained(
        0.0, low=0, high=100, help="strength of random shifts of units, after each norm of a unit"
    )
    reshuffle: bool = trained(
        True, help="new batches in each epoch; false: those of the first again, in a new order"
    )
    inputs: str = trained(
        "standardized",
        choices=INPUTS,
        help=(
            "standardized (by channel), raw (0..255), uneven (standardized, then each "
            "feature times 10^U(-2,2)), per_feature (standardized), whitened (ZCA)"
        ),
    )
    mix: str = trained(
        "none",
        choices=("none", "inverted"),
        help=(
            "inverted: half of all images inverted and of half the contrast, as a second "
            "domain; each domain has a test of its own"
        ),
    )
    augment: str = trained("none", help="of training images: crop, flip, cutout, joined by +")
    blank_steps: int = trained(
        0,
        low=0,
        high=10_000,
        help="recurrent models: up to so many blank time steps before a training image",
    )
    epochs: float | None = trained(
        1.0, above=0, high=100_000, help="length in passes over the training set; or:"
    )
    steps: int | None = trained(
        None, low=1, high=100_000_000, help="length in optimizer steps; or:"
    )
    examples: int | None = trained(
        None, low=1, high=10**12, help="length in training examples, rounded to whole steps"
    )
    target: float | None = trained(
        None,
        above=0,
        below=1,
        help="validation accuracy (0..1) at which to stop, telling time and examples to it",
    )
    seed: int = trained(0, low=0, high=2**31 - 1, help="the first seed")
    device: str = trained(
        "auto",
        choices=("auto", "cpu", "cuda", "mps"),
        help="cpu, cuda, mps; auto: cuda where there is a GPU, else cpu",
    )
    precision: str = trained(
        "fp32",
        choices=("fp32", "bf16"),
        help="fp32 (on GPUs without TF32), bf16 (autocast; statistics stay in fp32)",
    )
    threads: int = trained(1, low=1, high=1024, help="CPU threads of a run")
    on_nan: str = trained(
        "record",
        choices=("record", "fail"),
        help="record: a run whose loss is not finite ends as diverged; fail: as an error",
    )
    eval_stats: str = judged(
        "running",
        choices=("running", "batch", "dataset"),
        help="running, batch (of the images judged together), dataset (of training)",
    )
    shifts: list[str] = judged(
        (),
        help=(
            "of test images, each with a test of its own, such as [invert,contrast*0.5]; "
            "invert, brightness+A, brightness-A, contrast*A, noise+A: pixels are 0..1"
        ),
    )
    test_blank_steps: list[int] = judged(
        (),
        low=0,
        high=10_000,
        help="recurrent models: blank time steps before the test images, each with a test",
    )
    train_acc: bool = judged(
        False, help="also the accuracy on all training images, and gen_gap, that minus the test's"
    )
    probe: bool = judged(
        False, help="also what the layers of the final weights do: probe/saturated, probe/rank …"
    )
    seeds: int | str = recorded(
        1,
        low=1,
        high=10_000,
        choices=(AUTO,),
        help="how many seeds, counted up from seed; auto: until each pair is decided",
    )
    seeds_max: int = recorded(40, low=4, high=10_000, help="seeds at which seeds=auto ends")
    jobs: int | str = recorded(
        "auto",
        low=1,
        high=1024,
        choices=("auto",),
        help="runs at a time in a sweep; auto: one per core",
    )
    lanes: int | str = recorded(
        "auto",
        low=1,
        high=1024,
        choices=("auto",),
        help="most runs that train as one in a process, same bits; auto: 8 where all norms gain",
    )
    compare: str | None = recorded(
        None, help="what a sweep's table compares, such as batch; null: norm, init, or the first"
    )
    baseline: bool | int | float | str | None = recorded(
        None, help="value of it that differences are to; null: none, default, or the first"
    )
    optimize: str = recorded(
        "val/accuracy",
        choices=("val/accuracy", "val/loss", "train/accuracy", "train/loss", "train_s"),
        help="what the trials of hydra/sweeper=optuna are judged by",
    )
    log_every: int = recorded(50, low=1, high=1_000_000, help="steps between training rows")
    eval_every: float | None = recorded(
        None, above=0, high=100_000, help="epochs between validations; null: a tenth of the length"
    )
    eval_every_steps: int | None = recorded(
        None, low=1, high=100_000_000, help="steps between validations, in place of eval_every"
    )
    diagnose: str = recorded(
        "light",
        choices=("off", "light", "full"),
        help="off, light (gradient norm, gap of the modes), full (each layer as well)",
    )
    keep: str = recorded(
        "weights",
        choices=("weights", "none"),
        help="weights: the final ones, for normbench eval and export; none: once they are judged",
    )
    checkpoint_every: int = recorded(
        0,
        low=0,
        high=1_000_000,
        help="steps between checkpoints; 0: by time, so that they cost at most 1 % of it",
    )
    capture: str = recorded(
        "auto",
        choices=("auto", "on", "off"),
        help="replay recorded steps, same bits: on, off; auto: in runs long enough to gain",
    )
    outputs: str = recorded(
        "outputs", help="folder of runs and sweeps; also --outputs, $NORMBENCH_OUTPUTS"
    )
    force: bool = recorded(False, help="train again what is finished")
    allow_changed: bool = recorded(
        False, help="go on although code, torch or machine are others: equal bits are not promised"
    )
    dry_run: bool = recorded(False, help="print the plan only")
    skip_invalid: bool = recorded(
        False, help="leave out cells of a sweep whose parts do not fit, instead of refusing it"
    )
    max_cells: int = recorded(10000, low=1, high=100_000, help="largest sweep")
    tb: bool = recorded(True, help="write TensorBoard files")
    tb_axis: str = recorded(
        "examples", choices=("examples", "step"), help="their axis: examples or step"
    )
    download: bool = recorded(
        False, help="fetch a missing data set first, as normbench data download does"
    )


@cache
def declared_keys() -> tuple[Declared, ...]:
    """List the settings that are not parts."""
    given = declarations(Settings)
    return (*(setting for setting in given if "section" in setting.limits), PORT)


@cache
def defaults() -> dict[str, Any]:
    """Give the defaults of the settings that are not parts, by dotted key."""
    return {setting.name: setting.default for setting in declared_keys()}


@cache
def default_parts() -> dict[str, str]:
    """Give the name of the part that each group has unless another is chosen."""
    given = declarations(Settings)
    return {setting.name: setting.limits["part"] for setting in given if "part" in setting.limits}
