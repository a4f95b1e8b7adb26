"""A study at one of its sizes: its arms, its learning rates, its hypotheses, and its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from normbench.parts.options import written
from normbench.results.sequential import LEAST
from normbench.results.verdict import Region
from normbench.settings.declared import GROUPS
from normbench.settings.fields import AUTO
from normbench.studies import form
from normbench.studies.card import Card

# What all arms share unless a study says otherwise: studies.md, A.2.
RECIPE: dict[str, Any] = {
    "model": "mlp",
    "data": "mnist",
    "init": "kaiming_normal",
    "optimizer": "sgd",
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 0.0,
    "schedule": "cosine",
    "warmup": 0.0,
    "lr_rule": "none",
    "batch": 64,
    "steps": 300,
}
FIRST_SEED = {"screen": 1000, "certify": 2000}
POINTS = 100.0  # accuracies of a file are in percent
LR = "optimizer.lr"
STEP_S = {"mlp": 0.003, "rnn": 0.006, "lstm": 0.01}  # seconds of a step, roughly
CONVOLUTION_S = 0.012
PLAIN = ("steps_to", "max_lr", "train_loss_late", "probe")  # metrics that are no accuracies
Levels = Mapping[str, str]


@dataclass(frozen=True)
class Arm:
    """One combination of factor levels, and the settings of `normbench train` that it stands for.

    Args: levels: by factor, as written.
    """

    levels: Levels
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Say its levels."""
        return " ".join(self.levels.values()) or "all"

    @property
    def words(self) -> list[str]:
        """Write its settings as a command line has them."""
        groups = [key for key in self.settings if key in GROUPS]
        order = [*groups, *(key for key in self.settings if key not in GROUPS)]
        return [f"{key}={written(self.settings[key])}" for key in order]


@dataclass(frozen=True)
class Hypothesis:
    """One statement on arms: an effect of a metric, and the region in which the claim puts it.

    Args: arms: those of each letter of the effect; raised: the delta of the card where the floor
    of the size is above it; under: the only learning rates under which it is judged.
    """

    id: str
    role: str
    metric: str
    effect: str
    arms: Mapping[str, tuple[Arm, ...]]
    region: Region
    over: str | None = None
    constant: float = 0.0
    raised: float | None = None
    under: str | None = None


@dataclass(frozen=True)
class Study:
    """A card at one size, resolved: what is run and judged.

    Args: stage: `screen` or `certify`; tree: what the hash is over.
    """

    card: Card
    size: str
    stage: str
    tree: Mapping[str, Any]
    arms: tuple[Arm, ...]
    hypotheses: tuple[Hypothesis, ...]
    lr: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """Count the seeds of each arm, the most where the sequential test adds them."""
        return int(self.tree["seeds"]["max" if self.automatic else self.stage])

    @property
    def automatic(self) -> bool:
        """Tell whether seeds are added until the sequential test decides."""
        return bool(self.tree["seeds"][self.stage] == AUTO)

    @property
    def counted(self) -> str:
        """Say how many seeds each arm has."""
        return (
            f"{LEAST} to {self.seeds} seeds by the sequential test"
            if self.automatic
            else f"{self.seeds} seeds"
        )

    @property
    def kind(self) -> str:
        """Say whether it trains, or measures nets at their start: `train` or `probe`."""
        return str(self.tree["kind"])

    @property
    def still(self) -> bool:
        """Tell whether it trains nothing: a probe that does not look at nets along training."""
        return self.kind == "probe" and not self.tree["probe"].get("along")

    @property
    def primary(self) -> list[Hypothesis]:
        """List the hypotheses that make the verdict."""
        return [each for each in self.hypotheses if each.role == "primary"]

    @cached_property
    def hash(self) -> str:
        """Give the SHA-256 of the canonical JSON of all that decides the verdict."""
        text = json.dumps(self.tree, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def roles(self) -> tuple[str, ...]:
        """List by which learning rates it is judged, `fixed` where the recipe names them."""
        return tuple(role for role in ("shared", "tuned") if role in self._rates) or ("fixed",)

    @property
    def headline(self) -> str:
        """Say which of them is the study's verdict."""
        wanted = str(self.lr.get("headline", "tuned"))
        return wanted if wanted in self.roles else self.roles[-1]

    @property
    def _rates(self) -> dict[str, Any]:
        names = {"shared": "shared", "grid": "tuned"}
        return {names[key]: value for key, value in self.lr.items() if key in names}

    @property
    def cost(self) -> tuple[int, float]:
        """Count the trainings at most, and estimate their core-seconds, before any is composed."""
        tuned = {arm.name: arm for arm in map(self.reference, self.arms)} if self._grid else {}
        each = self.tree["seeds"]["tune"] * len(self._grid)
        runs = len(self.arms) * len(self.roles) * self.seeds + each * len(tuned)
        spent = len(self.roles) * self.seeds * sum(map(seconds, self.arms))
        return runs, spent + each * sum(map(seconds, tuned.values()))

    @property
    def _grid(self) -> list[float]:
        return [*self.lr.get("grid", ())]

    def reference(self, arm: Arm) -> Arm:
        """Give the arm whose tuned learning rate an arm takes: itself unless `lr.per` says."""
        per, at = self.lr.get("per"), self.lr.get("at", {})
        if per is None:
            return arm
        wanted = {
            key: level if key in per else written(at.get(key, level))
            for key, level in arm.levels.items()
        }
        return next(each for each in self.arms if each.levels == wanted)


def seconds(arm: Arm) -> float:
    """Estimate how long a run of an arm takes on one core."""
    return seconds_of(str(arm.settings["model"]), int(arm.settings.get("steps") or 1000))


def seconds_of(model: str, steps: int) -> float:
    """Estimate how long a run takes by the figure of its model."""
    return steps * STEP_S.get(model, CONVOLUTION_S)


def scale_of(metric: str, effect: str) -> float:
    """Tell what the numbers of a file are divided by: 100 for accuracies, which are in percent."""
    called, argument = form.calls(metric)
    plain = called in PLAIN or effect == "log_ratio" or argument.startswith(PLAIN)
    return 1.0 if plain else POINTS
