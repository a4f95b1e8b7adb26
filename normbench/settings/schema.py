"""The configuration of a run: what follows from its settings, its name, and its folder.

A `Config` is one cell of a sweep with one seed, resolved: no `auto`, share or `null` is left where
a number follows from the other settings. Imports neither torch nor Hydra.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench.parts import registry
from normbench.parts.options import copied, leaves
from normbench.settings.declared import GROUPS, Settings, declared_keys, defaults
from normbench.settings.fields import AUTO, JUDGED, RECORDED, default_part, set_sizes
from normbench.settings.naming import readable

if TYPE_CHECKING:
    from normbench.data._base import DatasetInfo

DIGITS = 12  # of the digest, in which the names of runs end
LAYOUT = 2  # of runs and their names; 1 counted evaluations among what names a run
WORDS = ("activation", "schedule", "order")  # groups whose options other cells of a sweep ignore
# Settings that change how a run is done and recorded, but no weight.
EXECUTION = (
    *(key.name for key in declared_keys() if key.limits.get("section") == RECORDED),
    *("tune", "tune_lrs", "tune_seeds"),  # what they choose is optimizer.lr, which is hashed
    "dist",
)
EVALUATION = tuple(key.name for key in declared_keys() if key.limits.get("section") == JUDGED)
STEERING = ("eval_stats", "eval_every")  # with a target: it is looked for by these validations
# Options whose default was another one when names were first given: names still leave out that one,
# so that a run of today's default is not taken for one of the former.
FORMER: dict[tuple[str, str, str], Any] = {}
DOMAINS = ("plain", "inverted")  # of `mix=inverted`
LR_FACTORS = {"none": lambda ratio: 1.0, "linear": lambda ratio: ratio, "sqrt": math.sqrt}


@dataclass(frozen=True)
class Config(Settings):
    """All settings of one run, and what is known of its data."""

    digest: str = ""
    label: str = ""
    shape: tuple[int, int, int] = (0, 0, 0)
    sizes: tuple[int, int, int] = (0, 0, 0)
    classes: int = 0
    lacking: tuple[str, ...] = ()  # classes without an image for validation or test, in words
    other: DatasetInfo | None = None  # data whose test images are judged in place of its own
    other_data: Mapping[str, Any] | None = None
    judging_device: str | None = None  # where it is judged, if not where it was trained
    other_threads: int | None = None  # with which it goes on, if not with those of its name

    @property
    def worker_batch(self) -> int:
        """Return the examples of one worker in one forward pass."""
        return self.batch // (self.gpus * self.accumulate)

    @property
    def stat_batch(self) -> int:
        """Return the examples behind one batch statistic; 1 where the norm looks at no batch."""
        asked, joins = next(set_sizes(self.norm), (1, False))
        share, everyone = self.worker_batch, self.batch // self.accumulate
        if not isinstance(asked, int):
            return everyone if asked == "global" else share
        if asked >= share:
            return min(asked, everyone) if joins else share
        chunks = -(-share // asked)
        return -(-share // chunks)

    @property
    def lr(self) -> float:
        """Return the peak learning rate: that of the optimizer times the factor of `lr_rule`."""
        factor = LR_FACTORS[self.lr_rule](self.batch / self.lr_base_batch)
        return float(self.optimizer["lr"] * factor)

    @property
    def steps_per_epoch(self) -> int:
        """Count the full batches in the training set; the incomplete last one is dropped."""
        return self.sizes[0] // self.batch

    @property
    def eval_steps(self) -> int:
        """Count the steps between two validations."""
        assert self.eval_every
        return max(1, round(self.eval_every * self.steps_per_epoch))

    @property
    def step_rows(self) -> int:
        """Return the rows of pixels in one time step of a recurrent model."""
        recurrent = registry.facts("model", self.model["name"]).constants["recurrent"]
        return int(self.model["rows"]) if recurrent else 1

    @cached_property
    def sha256(self) -> str:
        """Return the digest of every setting that makes the weights, except the seed.

        Settings at their default are left out, so that a setting added to normbench later does
        not rename the runs of today. So is a share of the run that became a number, and what has
        no effect beside the others. Of a part by `--parts` its file counts as well.
        """
        usual, idle = self._defaults(), self._idle()
        kept = {
            key: value
            for key, value in leaves(self.experiment())
            if key != "seed" and (key.endswith(".name") or value != usual.get(key))
            if not (key.endswith("_share") and value is None) and key not in idle
        }
        files = {
            f"{group}.{name}": digest
            for group in GROUPS
            for name in str(getattr(self, group)["name"]).split("+")
            if (digest := registry.digest(group, name))
        }
        return _digest({**kept, **files, "data.digest": self.digest, "layout": LAYOUT})

    def _idle(self) -> list[str]:
        """List settings that make no difference to the weights beside the others."""
        first_only = (self.steps or 0) <= self.steps_per_epoch
        return ["lr_base_batch"] * (self.lr_rule == "none") + ["reshuffle"] * first_only

    @cached_property
    def training(self) -> Config:
        """Return the same as it is trained: judged as usual, on its own test images.

        A run with a target is judged by the statistics by which its validations look for it.
        """
        usual = {key: copy.copy(defaults()[key]) for key in EVALUATION if key not in self._steering}
        return self._with(**usual, other=None, other_data=None, judging_device=None)

    @property
    def tested(self) -> Config:
        """Return the same on the data whose test images are judged."""
        if self.other is None:
            return self
        other = config_of({**self.plain(), "data": self.other_data}, self.other)
        return dataclasses.replace(other, judging_device=self.judging_device)

    @property
    def evaluation(self) -> dict[str, Any]:
        """Return in which settings this is not judged as its training judges it."""
        own = self.training
        asked = {key: getattr(self, key) for key in EVALUATION}
        unlike = {key: value for key, value in asked.items() if value != getattr(own, key)}
        if self.other:
            unlike |= {"data": self.other.label, "data.digest": self.other.digest}
        return unlike

    @property
    def evaluation_name(self) -> str:
        """Return what names an evaluation beside its run, empty for that of the training."""
        return evaluation_name(self.evaluation) if self.evaluation else ""

    @cached_property
    def name(self) -> str:
        """Return the name of the run's folder, the same in every sweep: `mlp-gn-groups4-b2-…`."""
        idle = self._idle()
        told = {key: value for key, value in self._defaults().items() if key not in idle}
        words = self.experiment(), told, self.label, self.steps_per_epoch
        return f"{readable(*words)}-{self.sha256[:DIGITS]}"

    @property
    def directory(self) -> Path:
        """Return where the run's files lie."""
        place = f"tune{-1 - self.seed}" if self.tuning else f"seed{self.seed}"
        return Path(self.outputs) / "runs" / self.name / place

    @property
    def tests(self) -> list[str]:
        """Name the tests of the run beside that of the test set as it is."""
        blanks = [f"blank{steps}" for steps in self.test_blank_steps]
        return [*self.shifts, *blanks, *(DOMAINS if self.mix != "none" else ())]

    @property
    def tuning(self) -> bool:
        """Tell whether this run only serves to choose a learning rate, without the test set."""
        return self.seed < 0

    def experiment(self) -> dict[str, Any]:
        """Return the settings that make the weights."""
        tree = self.plain()
        for key in {*EXECUTION, *EVALUATION} - {*self._steering}:
            del tree[key]
        for key in _unhashed(self):
            tree["data"].pop(key, None)
        return tree

    def execution(self) -> dict[str, Any]:
        """Return the settings that make no difference to the weights; evaluations are elsewhere."""
        tree = self.plain()
        data = {key: tree["data"][key] for key in _unhashed(self) if key in tree["data"]}
        kept = {key: tree[key] for key in EXECUTION if key not in self._steering}
        return {**kept, "data": data}

    @property
    def _steering(self) -> tuple[str, ...]:
        return () if self.target is None else STEERING

    @property
    def most_seeds(self) -> int:
        """Return with how many seeds it is trained at most."""
        return self.seeds_max if self.seeds == AUTO else int(self.seeds)

    def with_seeds(self, count: int | None = None) -> list[Config]:
        """Return one config per seed, all by default: `seeds=3 seed=5` is seeds 5, 6 and 7."""
        if self.seeds == 1:
            return [self]
        count = count or self.most_seeds
        return [self._with(seed=self.seed + k, seeds=1) for k in range(count)]

    def _with(self, **changes: Any) -> Config:
        """Return the same but for what its name does not tell, which takes long to make."""
        made = dataclasses.replace(self, **changes)
        vars(made).update(sha256=self.sha256, name=self.name)
        return made

    def with_lr(self, lr: float) -> Config:
        """Return the same with another `optimizer.lr`."""
        return dataclasses.replace(self, optimizer={**self.optimizer, "lr": lr})

    def tuning_run(self, lr: float, k: int) -> Config:
        """Return the run of tuning seed k at a learning rate.

        Its seed is -1 - k, which no command line can ask for. It goes on to the end of the budget
        whatever `target` says, and may diverge, since that is an answer. Nothing of it is tested.
        """
        if lr not in self._tried:
            made = dataclasses.replace(self.with_lr(lr), target=None, on_nan="record", seeds=1)
            self._tried[lr] = dataclasses.replace(made.training, eval_stats=self.eval_stats)
        return self._tried[lr]._with(seed=-1 - k)

    @cached_property
    def _tried(self) -> dict[float, Config]:
        return {}

    def plain(self) -> dict[str, Any]:
        """Return all settings as plain data."""
        return {name: copied(getattr(self, name)) for name in Settings.__dataclass_fields__}

    def _defaults(self) -> dict[str, Any]:
        """Give the values that names leave out: the defaults, also those of parts."""
        found = dict(defaults())
        for group in GROUPS:
            usual = default_part(group, getattr(self, group)["name"])
            found |= {f"{group}.{key}": value for key, value in usual.items()}
        for (group, name, key), value in FORMER.items():
            if getattr(self, group)["name"] == name:
                found[f"{group}.{key}"] = value
        return found


def evaluation_name(asked: Mapping[str, Any]) -> str:
    """Name an evaluation by the settings in which it differs from that of the training."""
    return _digest(asked)[:12]


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def config_of(tree: Mapping[str, Any], about: DatasetInfo) -> Config:
    """Make the config of resolved settings and what is known of their data."""
    facts = ("digest", "label", "shape", "sizes", "classes", "lacking")
    return Config(**tree, **{name: getattr(about, name) for name in facts})


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
