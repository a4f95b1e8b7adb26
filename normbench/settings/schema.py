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

from normbench.engine import augment, sampler, transforms
from normbench.errors import Mistake
from normbench.parts import registry
from normbench.parts.options import Declared, Unfit, declarations, leaves, option, written
from normbench.runtime import machine

if TYPE_CHECKING:
    from normbench.data._base import About

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
GRID = (0.03, 0.1, 0.3, 1.0, 3.0)  # learning rates that tuning tries, times that of the optimizer
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
    inputs: str = option(None, choices=tuple(transforms.KINDS))
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
        not rename the runs of today.
        """
        kept = {
            key: value
            for key, value in leaves(self.experiment())
            if key != "seed" and (key.endswith(".name") or value != default_of(key, self))
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


def get(tree: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key in a tree, None if there is none."""
    value: Any = tree
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in a tree."""
    *path, last = key.split(".")
    for name in path:
        tree = tree.setdefault(name, {})
    tree[last] = value


def check_values(tree: dict[str, Any]) -> list[Mistake]:
    """Check types and ranges of a composed tree, and put the typed values back into it."""
    mistakes = []
    for key, declared in _declared(tree):
        value = get(tree, key)
        try:
            put(tree, key, declared.check(value))
        except Unfit as unfit:
            fix = f"{key}={written(unfit.fix)}"
            mistakes.append(Mistake(f"{key}={written(value)}", unfit.why, fix))
    return mistakes


def _declared(tree: Mapping[str, Any]) -> Iterator[tuple[str, Declared]]:
    known = defaults()
    for each in declared_keys():
        yield each.name, dataclasses.replace(each, default=known[each.name])
    for group in GROUPS:
        for name, each in declared_options(group, tree[group]["name"]).items():
            yield f"{group}.{name}", each


def resolve(tree: dict[str, Any], about: About, here: bool = True) -> Config:
    """Make the config of a checked tree: every setting that follows from others gets its value.

    Args: here: whether the run will be on this machine.
    Raises: MachineError if the device is not here, or the port in use.
    """
    facts = registry.facts("norm", tree["norm"]["name"]).constants
    tree = copy.deepcopy(tree)
    if here:
        tree["device"] = machine.resolve_device(tree["device"], tree["gpus"])
        machine.check_port(tree["dist"]["port"])
    if tree["placement"] == "auto":
        tree["placement"] = facts["placement"]
    if tree["activation"] == "auto":
        usual = registry.facts("model", tree["model"]["name"]).constants["activation"]
        tree["activation"] = usual if facts["brings"] == "relu" else facts["brings"]
    if tree["bias"] == "auto" and facts["bias"]:
        tree["bias"] = "on"
    per_epoch = about.sizes[0] // tree["batch"]
    tree["steps"] = _steps(tree, per_epoch)
    # The steps say it, so all ways to say a length are one run.
    tree["epochs"] = tree["examples"] = None
    if tree["eval_every"] is None:
        tree["eval_every"] = tree["steps"] / per_epoch / 10
    if tree["tune"] == "lr" and tree["tune_lrs"] is None:
        tree["tune_lrs"] = grid_around(tree["optimizer"]["lr"])
    for key in ("shifts", "test_blank_steps"):
        tree[key] = sorted(tree[key])  # a run is the same in whatever order it is tested
    for key, order in sampler.OWNERS.items():
        if tree["order"] != order:
            tree[key] = defaults()[key]  # it makes no difference
    tree["augment"] = augment.named(tree["augment"])
    _resolve_shares(tree["norm"], tree["steps"] * tree["accumulate"])
    return Config(
        **tree,
        digest=about.digest,
        label=about.label,
        shape=about.shape,
        sizes=about.sizes,
        classes=about.classes,
    )


def _steps(tree: Mapping[str, Any], per_epoch: int) -> int:
    """The length in optimizer steps, however it is given."""
    steps = tree["steps"]
    if steps is None and tree["examples"] is not None:
        steps = max(1, round(tree["examples"] / tree["batch"]))
    return int(max(1, round(tree["epochs"] * per_epoch)) if steps is None else steps)


def _resolve_shares(norm: dict[str, Any], forwards: int) -> None:
    """Turn `x_share` of the run's training forwards into `x`."""
    for key, value in list(norm.items()):
        if isinstance(value, Mapping):
            _resolve_shares(norm[key], forwards)
        elif key.endswith("_share") and value is not None:
            norm[key], norm[key.removesuffix("_share")] = None, round(value * forwards)


def contradictions(tree: Mapping[str, Any], about: About) -> list[Mistake]:
    """List what in a cell cannot go together, as far as it can be known without torch."""
    return [
        *_batch_mistakes(tree, about),
        *_set_mistakes(tree),
        *_place_mistakes(tree),
        *_share_mistakes(tree),
        *_tune_mistakes(tree),
        *transforms.mistakes(tree, about),
        *sampler.mistakes(tree, about),
        *augment.mistakes(tree, about),
    ]


def _share_mistakes(tree: Mapping[str, Any]) -> Iterator[Mistake]:
    given = dict(leaves(tree["norm"]))
    for key, share in given.items():
        count = given.get(key.removesuffix("_share"))
        if key.endswith("_share") and share is not None and count is not None:
            name = f"norm.{key.removesuffix('_share')}={written(count)}"
            why = f"norm.{key}={share} of the run says it too"
            yield Mistake(name, why, f"{name} norm.{key}=null")


def grid_around(lr: float) -> list[float]:
    """List the learning rates that tuning tries where none are given."""
    return [float(f"{lr * factor:.6g}") for factor in GRID]


def _tune_mistakes(tree: Mapping[str, Any]) -> Iterator[Mistake]:
    lrs = tree["tune_lrs"]
    if tree["tune"] == "lr" and machine.place() is not None:
        why = "needs a command that starts its workers itself, not torchrun"
        yield Mistake("tune=lr", why, f"normbench train tune=lr gpus={tree['gpus']}")
    if tree["tune"] == "none" or lrs is None:
        return
    rising = sorted(set(lrs))
    if len(rising) < 2:
        fix = written(grid_around((rising or [tree["optimizer"]["lr"]])[0]))
        why = "is no grid: that takes two learning rates or more"
        yield Mistake(f"tune_lrs={written(lrs)}", why, f"tune_lrs={fix}")
    elif lrs != rising:
        why = "does not rise from each learning rate to the next"
        yield Mistake(f"tune_lrs={written(lrs)}", why, f"tune_lrs={written(rising)}")


def _batch_mistakes(tree: Mapping[str, Any], about: About) -> Iterator[Mistake]:
    batch, gpus, images = tree["batch"], tree["gpus"], about.sizes[0]
    place = machine.place()
    if place is not None and place.workers != gpus:
        why = f"torchrun has started {place.workers} workers"
        yield Mistake(f"gpus={gpus}", why, f"gpus={place.workers}")
    if batch > images:
        why = f"is more than the {images} training images of {about.label}"
        yield Mistake(f"batch={batch}", why, f"batch={images}")
    port = tree["dist"]["port"]
    if port is not None and (gpus == 1 or place is not None):
        why = "torchrun tells where workers meet" if place else "gpus=1 has no workers that meet"
        yield Mistake(f"dist.port={port}", why, "dist.port=null")
    shares = gpus * tree["accumulate"]
    if batch % shares:
        over = f"gpus={gpus} workers" if gpus > 1 else f"accumulate={shares} micro-batches"
        works = sorted({max(1, batch // shares) * shares, (batch // shares + 1) * shares})
        fix = " or ".join(f"batch={each}" for each in works)
        yield Mistake(f"batch={batch}", f"does not divide over {over}", fix)


def _set_mistakes(tree: Mapping[str, Any]) -> Iterator[Mistake]:
    """What is wrong with the samples behind a batch statistic."""
    norm, gpus, asked = tree["norm"], tree["gpus"], tree["norm_batch"]
    taken = [item for item in leaves(norm) if item[0].rpartition(".")[2] == "norm_batch"]
    if asked != "worker" and not taken:
        why = f"norm={norm['name']} takes no statistics over other sets of samples"
        yield Mistake(f"norm_batch={asked}", why, "norm_batch=worker")
    share = max(1, tree["batch"] // (gpus * tree["accumulate"]))
    sizes = [*_divisors(share), *(share * each for each in _divisors(gpus))]
    for key, size in taken:
        if isinstance(size, int) and size not in sizes:
            name = "norm_batch" if size == asked else f"norm.{key}"
            each = f"{gpus} worker{'s' * (gpus > 1)} with {share} example{'s' * (share > 1)}"
            near = min(sizes, key=lambda one: abs(one - size))
            yield Mistake(f"{name}={size}", f"cannot be had of {each}", f"{name}={near}")


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def _set_sizes(norm: Mapping[str, Any]) -> Iterator[tuple[int | str, bool]]:
    """What stands behind a batch statistic, and whether it may join workers, for each norm."""
    names = norm["name"].split("+")
    for name in names:
        known = registry.facts("norm", name).constants
        options = norm if len(names) == 1 else norm.get(name, {})
        if known["uses_batch"]:
            key = known["sized_by"]
            yield options.get(key, known.get(key, "worker")), key == "norm_batch"


def _place_mistakes(tree: Mapping[str, Any]) -> Iterator[Mistake]:
    norm, model = tree["norm"]["name"], tree["model"]["name"]
    facts = registry.facts("norm", norm).constants
    place, activation = tree["placement"], tree["activation"]
    if place not in ("auto", *facts["places"]):
        why = f"norm={norm} has no such place (it has {', '.join(facts['places'])})"
        yield Mistake(f"placement={place}", why, f"placement={facts['places'][0]}")
    elif place == "preact" and not registry.facts("model", model).constants["residual"]:
        why = f"model={model} has no residual blocks for it"
        yield Mistake("placement=preact", why, "placement=pre")
    usual = registry.facts("model", model).constants["activation"]
    if facts["own_activation"] and activation not in ("auto", facts["brings"]):
        why = f"norm={norm} is its own activation"
        yield Mistake(f"activation={activation}", why, "activation=auto")
    elif facts["own_activation"] and activation == "auto" and usual != facts["brings"]:
        why = f"is its own activation, and model={model} needs {usual}"
        yield Mistake(f"norm={norm}", why, "norm=ln")


def data_about(tree: Mapping[str, Any]) -> About:
    """Describe the data of a tree without loading it.

    Raises: FileRefused if it is not here; PartError if an option does not fit.
    """
    about: About = part("data", tree["data"]).about()
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
