"""The settings of a run: their types and ranges, what follows from them, and the run's name.

A `Config` is one cell of a sweep with one seed, resolved: no `auto`, share or `null` is left where
a number follows from the other settings. Imports neither torch nor Hydra.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench.parts import registry
from normbench.parts.options import Declared, declarations, leaves, option

if TYPE_CHECKING:
    from normbench.data._base import DatasetInfo

GROUPS = tuple(registry.KINDS)
DERIVED = ("digest", "label", "shape", "sizes", "classes")  # from the data, by `resolve`
# Settings that change how a run is done and recorded, but no number of it.
EXECUTION = (
    *("seeds", "jobs", "log_every", "outputs", "force", "dry_run"),
    *("skip_invalid", "max_cells", "tb", "tb_axis", "download"),
    *("tune", "tune_lrs", "tune_seeds"),  # what they choose is optimizer.lr, which is hashed
    "dist",
)
ACTIVATIONS = ("auto", "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "tlu", "identity")
SCHEDULES = ("constant", "linear", "cosine", "step", "onecycle")
ORDERS = ("iid", "sorted", "dirichlet", "classes", "balanced")
OWNERS = {"order_alpha": "dirichlet", "order_classes": "classes"}  # what the settings are for
INPUTS = ("standardized", "raw", "uneven", "per_feature", "whitened")
DOMAINS = ("plain", "inverted")  # of `mix=inverted`
PORT = Declared("dist.port", "int | None", None, {"low": 1024, "high": 65535})
LR_FACTORS = {"none": lambda ratio: 1.0, "linear": lambda ratio: ratio, "sqrt": math.sqrt}


@dataclass(frozen=True)
class Config:
    """All settings of one run. Defaults stand in `configs/train.yaml`, ranges here.

    Parts are mappings with their `name` and options, `dist` is one with its settings.
    """

    model: Mapping[str, Any]
    norm: Mapping[str, Any]
    init: Mapping[str, Any]
    data: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    dist: Mapping[str, Any]
    batch: int = option(None, low=1, high=1_000_000)
    gpus: int = option(None, low=1, high=512)
    accumulate: int = option(None, low=1, high=100_000)
    norm_batch: int | str = option(None, low=1, high=1_000_000, choices=("worker", "global"))
    eval_stats: str = option(None, choices=("running", "batch", "dataset"))
    lr_rule: str = option(None, choices=("none", "linear", "sqrt"))
    lr_base_batch: int = option(None, low=1, high=1_000_000)
    tune: str = option(None, choices=("none", "lr"))
    tune_lrs: list[float] | None = option(None, above=0, high=1e30)
    tune_seeds: int = option(None, low=1, high=100)
    schedule: str = option(None, choices=SCHEDULES)
    warmup: float = option(None, low=0, below=1)
    clip: float | None = option(None, above=0, high=1e30)
    placement: str = option(None, choices=("auto", "pre", "post", "preact"))
    activation: str = option(None, choices=ACTIVATIONS)
    bias: str = option(None, choices=("auto", "on", "off"))
    dropout: float = option(None, low=0, below=1)
    order: str = option(None, choices=ORDERS)
    order_alpha: float = option(None, above=0, high=1e6)
    order_classes: int = option(None, low=1, high=100_000)
    reshuffle: bool = option(None)
    inputs: str = option(None, choices=INPUTS)
    mix: str = option(None, choices=("none", "inverted"))
    augment: str = option(None)
    shifts: list[str] = option(None)
    blank_steps: int = option(None, low=0, high=10_000)
    test_blank_steps: list[int] = option(None, low=0, high=10_000)
    epochs: float | None = option(None, above=0, high=100_000)
    steps: int | None = option(None, low=1, high=100_000_000)
    examples: int | None = option(None, low=1, high=10**12)
    eval_every: float | None = option(None, above=0, high=100_000)
    target: float | None = option(None, above=0, below=1)
    diagnose: str = option(None, choices=("off", "light", "full"))
    seed: int = option(None, low=0, high=2**31 - 1)
    device: str = option(None, choices=("auto", "cpu", "cuda", "mps"))
    precision: str = option(None, choices=("fp32", "bf16"))
    threads: int = option(None, low=1, high=1024)
    on_nan: str = option(None, choices=("record", "fail"))
    seeds: int = option(None, low=1, high=10_000)
    jobs: int | str = option(None, low=1, high=1024, choices=("auto",))
    log_every: int = option(None, low=1, high=1_000_000)
    outputs: str = option(None)
    force: bool = option(None)
    dry_run: bool = option(None)
    skip_invalid: bool = option(None)
    max_cells: int = option(None, low=1, high=100_000)
    tb: bool = option(None)
    tb_axis: str = option(None, choices=("examples", "step"))
    download: bool = option(None)
    digest: str = ""
    label: str = ""
    shape: tuple[int, int, int] = (0, 0, 0)
    sizes: tuple[int, int, int] = (0, 0, 0)
    classes: int = 0

    @property
    def worker_batch(self) -> int:
        """Examples of one worker in one forward pass."""
        return self.batch // (self.gpus * self.accumulate)

    @property
    def stat_batch(self) -> int:
        """Examples behind one batch statistic; 1 where the norm looks at no batch."""
        asked, joins = next(_set_sizes(self.norm), (1, False))
        share, everyone = self.worker_batch, self.batch // self.accumulate
        if not isinstance(asked, int):
            return everyone if asked == "global" else share
        if asked >= share:
            return min(asked, everyone) if joins else share
        chunks = -(-share // asked)
        return -(-share // chunks)

    @property
    def lr(self) -> float:
        """The peak learning rate: that of the optimizer times the factor of `lr_rule`."""
        factor = LR_FACTORS[self.lr_rule](self.batch / self.lr_base_batch)
        return float(self.optimizer["lr"] * factor)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training set; the incomplete last one is dropped."""
        return self.sizes[0] // self.batch

    @property
    def step_rows(self) -> int:
        """Rows of pixels in one time step of a recurrent model."""
        recurrent = registry.facts("model", self.model["name"]).constants["recurrent"]
        return int(self.model["rows"]) if recurrent else 1

    @cached_property
    def sha256(self) -> str:
        """Digest of every setting that can change the numbers, except the seed.

        Settings at their default are left out, so that a setting added to normbench later does
        not rename the runs of today. So is a share of the run that became a number.
        """
        kept = {
            key: value
            for key, value in leaves(self.experiment())
            if key != "seed" and (key.endswith(".name") or value != default_of(key, self))
            if not (key.endswith("_share") and value is None)
        }
        text = json.dumps({**kept, "data.digest": self.digest}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def name(self) -> str:
        """The readable name of the run's folder, the same in every sweep."""
        label = [] if self.label == self.data["name"] else [self.label]
        words = [self.model["name"], self.norm["name"], f"b{self.batch}", *label]
        return "-".join([*words, self.sha256[:12]])

    @property
    def directory(self) -> Path:
        """Where the run's files lie."""
        place = f"tune{-1 - self.seed}" if self.tuning else f"seed{self.seed}"
        return Path(self.outputs) / "runs" / self.name / place

    @property
    def tests(self) -> list[str]:
        """Name the tests of the run beside that of the test set as it is."""
        blanks = [f"blank{steps}" for steps in self.test_blank_steps]
        return [*self.shifts, *blanks, *(DOMAINS if self.mix != "none" else ())]

    @property
    def tuning(self) -> bool:
        """Whether this run only serves to choose a learning rate: it never sees the test set."""
        return self.seed < 0

    def experiment(self) -> dict[str, Any]:
        """Return the settings that make the numbers."""
        tree = self._plain()
        for key in EXECUTION:
            del tree[key]
        for key in _unhashed(self):
            tree["data"].pop(key, None)
        return tree

    def execution(self) -> dict[str, Any]:
        """Return the settings that make no difference to the numbers."""
        tree = self._plain()
        data = {key: tree["data"][key] for key in _unhashed(self) if key in tree["data"]}
        return {**{key: tree[key] for key in EXECUTION}, "data": data}

    def with_seeds(self) -> list[Config]:
        """Return one config per seed: `seeds=3 seed=5` is seeds 5, 6 and 7."""
        return [dataclasses.replace(self, seed=self.seed + k, seeds=1) for k in range(self.seeds)]

    def with_lr(self, lr: float) -> Config:
        """Return the same with another `optimizer.lr`."""
        return dataclasses.replace(self, optimizer={**self.optimizer, "lr": lr})

    def tuning_run(self, lr: float, k: int) -> Config:
        """Return the run of tuning seed k at a learning rate.

        Its seed is -1 - k, which no command line can ask for. It goes on to the end of the budget
        whatever `target` says, and may diverge, since that is an answer.
        """
        to_the_end = dataclasses.replace(self, target=None, on_nan="record", seeds=1)
        return dataclasses.replace(to_the_end.with_lr(lr), seed=-1 - k)

    def _plain(self) -> dict[str, Any]:
        return {
            each.name: copy.deepcopy(getattr(self, each.name))
            for each in declarations(Config)
            if each.name not in DERIVED
        }


@cache
def declared_keys() -> tuple[Declared, ...]:
    """List the settings that are not parts and not derived."""
    others = (*GROUPS, *DERIVED, "dist")
    return (*(each for each in declarations(Config) if each.name not in others), PORT)


def declared_options(group: str, name: str) -> dict[str, Declared]:
    """Return the options of a part by name."""
    return dict(registry.facts(group, name).options)


def default_of(key: str, config: Config) -> Any:
    """Return the packaged default of a dotted key."""
    group, _, rest = key.partition(".")
    if group in GROUPS:
        declared = declared_options(group, getattr(config, group)["name"]).get(rest)
        return declared.default if declared else None
    return defaults()[key]


@cache
def defaults() -> dict[str, Any]:
    """Give the packaged defaults of the settings that are not parts, by dotted key."""
    others = ("defaults", "hydra")
    return dict(leaves({key: each for key, each in _packaged().items() if key not in others}))


@cache
def default_parts() -> dict[str, str]:
    """Give the name of the part that each group has unless another is chosen."""
    listed = [each for each in _packaged()["defaults"] if isinstance(each, dict)]
    return {group: name for each in listed for group, name in each.items() if group in GROUPS}


@cache
def _packaged() -> dict[str, Any]:
    import yaml

    text = (registry.configs() / "train.yaml").read_text(encoding="utf-8")
    tree: dict[str, Any] = yaml.safe_load(text)
    return tree


def _set_sizes(norm: Mapping[str, Any]) -> Iterator[tuple[int | str, bool]]:
    """What stands behind a batch statistic, and whether it may join workers, for each norm."""
    names = norm["name"].split("+")
    for name in names:
        known = registry.facts("norm", name).constants
        options = norm if len(names) == 1 else norm.get(name, {})
        if known["uses_batch"]:
            key = known["sized_by"]
            yield options.get(key, known.get(key, "worker")), key == "norm_batch"


def data_about(tree: Mapping[str, Any]) -> DatasetInfo:
    """Describe the data of a tree without loading it.

    Raises: FileRefused if it is not here; PartError if an option does not fit.
    """
    about: DatasetInfo = part("data", tree["data"]).about()
    return about


def part(group: str, options: Mapping[str, Any]) -> Any:
    """Make a part from its name and options.

    Raises: PartError.
    """
    values = {key: value for key, value in options.items() if key != "name"}
    return registry.find(group, options["name"])(**values)


def _unhashed(config: Config) -> tuple[str, ...]:
    keys: tuple[str, ...] = registry.facts("data", config.data["name"]).constants["execution"]
    return keys
