"""Warns of settings that work, but make a run needlessly slow or have no effect."""

from __future__ import annotations

from collections.abc import Iterator

from normbench.errors import Mistake, counted
from normbench.parts import registry
from normbench.parts.options import written
from normbench.runtime import machine
from normbench.settings.declared import defaults
from normbench.settings.fields import AUTO
from normbench.settings.inputs import read_shift
from normbench.settings.schema import Config

FORWARDS = 1_000  # of one validation: more are slow, and of very few images each
VALIDATIONS = 20  # of a run: the usual number is 11
FAR = 4  # times a batch is below `lr_base_batch` from which a rule for other optimizers tells
KEPT = 0.05  # share of their start in running statistics that tells
SURPLUS = 10  # images validated for one that is trained on
REFRESHED = (
    30  # training images looked at again for one that is trained on, at three times the work
)
UNCHANGED = {("brightness", 0.0), ("contrast", 1.0), ("noise", 0.0)}  # shifts that do nothing


def advice(config: Config) -> list[Mistake]:
    """List what in a config is slow or without effect, each with a way out."""
    return [
        *_slow_validations(config),
        *_idle(config),
        *_unfit(config),
        *_stale(config),
        *_unreal(config),
    ]


def _slow_validations(config: Config) -> Iterator[Mistake]:
    assert config.steps
    images = config.sizes[1]
    running = registry.facts("norm", config.norm["name"]).constants["running"]
    validations = 1 + -(-config.steps // config.eval_steps)
    forwards = images // min(config.batch, images)
    by = config.training.eval_stats  # another evaluation is made once, of the final weights
    if by == "batch" and forwards > FORWARDS:
        each = counted(config.batch, "image")
        why = f"{validations} validations take {forwards:,} forwards of {each} each"
        if not running:
            why += f", and norm={config.norm['name']} has no running statistics"
        yield Mistake("eval_stats=batch", why, "eval_stats=running or eval_stats=dataset")
    if by != config.eval_stats == "batch" and config.batch == 1:
        why = f"the final weights are judged in {sum(config.sizes[1:]):,} forwards of 1 image each"
        yield Mistake("eval_stats=batch", why, "eval_stats=running or eval_stats=dataset")
    trained = config.steps * config.batch
    again = validations * config.sizes[0]
    if by == "dataset" and running and again > REFRESHED * trained:
        why = f"{validations} validations look at {again:,} images, to train on {trained:,}"
        yield Mistake("eval_stats=dataset", why, "eval_stats=running")
    surplus = validations * images / trained
    if validations > VALIDATIONS and surplus > SURPLUS:
        why = f"{validations:,} validations judge {surplus:.0f} times the images trained on"
        key = "eval_every" if config.eval_every_steps is None else "eval_every_steps"
        yield Mistake(f"{key}={getattr(config, key):g}", why, f"{key}=null")


def _idle(config: Config) -> Iterator[Mistake]:
    """Warn of settings that are without effect beside the others."""
    if config.tune == "none" and config.tune_lrs is not None:
        subject = f"tune_lrs={written(config.tune_lrs)}"
        yield Mistake(subject, "has no effect with tune=none", "tune=lr")
    if config.seeds != AUTO and config.seeds_max != defaults()["seeds_max"]:
        subject = f"seeds_max={config.seeds_max}"
        yield Mistake(
            subject, f"has no effect with seeds={config.seeds}", f"seeds={config.seeds_max}"
        )
    if config.lr_rule == "none" and config.lr_base_batch != defaults()["lr_base_batch"]:
        subject = f"lr_base_batch={config.lr_base_batch}"
        yield Mistake(subject, "has no effect with lr_rule=none", "lr_rule=linear")
    if not config.reshuffle and (config.steps or 0) <= config.steps_per_epoch:
        why = f"has no effect in {config.steps} steps: an epoch has {config.steps_per_epoch}"
        yield Mistake("reshuffle=false", why, "reshuffle=true")
    for word in config.shifts:
        name, _, size = read_shift(word)
        if (name, size) in UNCHANGED:
            fix = written([other for other in config.shifts if other != word])
            subject = f"shifts={written(config.shifts)}"
            yield Mistake(subject, f"{word} changes no pixel", f"shifts={fix}")


def _unfit(config: Config) -> Iterator[Mistake]:
    """Warn of the linear rule at small batches where steps do not shrink with the gradient.

    Source: Malladi, Lyu, Panigrahi & Arora 2022, arXiv 2205.10287: sqrt for Adam and RMSprop.
    """
    name = str(config.optimizer["name"])
    small = config.batch * FAR <= config.lr_base_batch
    rescales = registry.facts("optimizer", name).constants["rescales"]
    if small and rescales and config.lr_rule == "linear" and config.tune == "none":
        why = (
            f"makes steps of optimizer={name} {config.lr_base_batch / config.batch:g} times smaller"
        )
        yield Mistake("lr_rule=linear", f"{why} at batch={config.batch}", "lr_rule=sqrt")


def _stale(config: Config) -> Iterator[Mistake]:
    """Warn of running statistics that a smaller momentum than usual leaves near their start."""
    facts, momentum = registry.facts("norm", config.norm["name"]), config.norm.get("momentum")
    usual = facts.options.get("momentum") if facts.constants["running"] else None
    if momentum is None or usual is None or config.eval_stats != "running":
        return
    steps = config.steps or 0
    kept = (1 - momentum) ** steps
    if usual.default is not None and momentum < usual.default and kept > KEPT:
        why = f"leaves running statistics {100 * kept:.0f} % of their start after {steps:,} steps"
        yield Mistake(f"norm.momentum={momentum:g}", why, f"norm.momentum={usual.default:g}")


def _unreal(config: Config) -> Iterator[Mistake]:
    """Warn of what asks for less than chance, or for more than the machine has."""
    chance = 1 / config.classes
    if config.target is not None and config.target <= chance:
        why = f"is not above chance, {chance:.3g} for {config.classes} classes"
        yield Mistake(f"target={config.target:g}", why, f"target={(1 + chance) / 2:.2g}")
    cores = machine.cores()
    for key, asked in {"threads": config.threads, "jobs": config.jobs}.items():
        if config.device == "cpu" and isinstance(asked, int) and asked > cores:
            why = f"is more than the {counted(cores, 'core')} of this machine, and slower"
            yield Mistake(f"{key}={asked}", why, f"{key}={cores}")
