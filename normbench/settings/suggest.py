"""What a wrong word of a command line may have meant: names, aliases, values that fit."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby

from hydra.errors import HydraException

from normbench.errors import MISTAKES, Mistake
from normbench.parts import registry
from normbench.parts.options import Declared, Unfit, leaves, likeness, near, written
from normbench.settings.declared import declared_keys, default_parts, defaults
from normbench.settings.fields import default_part

ALL_SETTINGS = "(all settings: normbench train --help)"
HELP = "normbench train --help    (all settings)"
OVERRIDE = re.compile(r"[a-z][\w.]*=(?!VALUE|NAME|DIR|OPTION).*")
SHORT = 3  # letters
ELSE = " else "  # between suggestions of which the first that works is shown
ALIASES = {
    other: key
    for key, others in {
        "optimizer.lr": "lr learning_rate alpha max_lr",
        "optimizer.momentum": "momentum",
        "optimizer.weight_decay": "wd decay weight_decay",
        "optimizer.beta1": "betas",
        "batch": "bs batch_size batchsize global_batch_size",
        "gpus": "workers num_workers world_size nproc_per_node devices num_gpus n_gpu",
        "accumulate": "grad_accum gradient_accumulation_steps accumulate_grad_batches",
        "epochs": "num_epochs max_epochs n_epochs",
        "steps": "num_steps max_steps iterations iters",
        "seed": "random_seed manual_seed",
        "seeds": "num_seeds n_seeds repeats n_runs",
        "device": "accelerator cuda",
        "precision": "dtype amp fp16 bf16 mixed_precision",
        "outputs": "output output_dir out_dir outdir results log_dir save_dir",
        "clip": "grad_clip clip_grad max_grad_norm gradient_clip gradient_clip_val clip_norm",
        "jobs": "n_jobs parallel j",
        "log_every": "log_interval log_freq print_freq",
        "eval_every": "eval_interval val_interval eval_freq val_check_interval",
        "warmup": "warmup_ratio warmup_fraction warmup_epochs",
        "warmup_least": "warmup_steps",
        "dropout": "dropout_rate dropout_p",
        "data": "dataset datasets",
        "data.root": "data_dir data_root",
        "data.size": "image_size img_size input_size resize",
        "model": "arch net network architecture",
        "model.depth": "layers num_layers n_layers",
        "model.width": "hidden hidden_size hidden_dim units",
        "norm": "normalization norm_layer layer_norm batch_norm",
        "norm.groups": "num_groups",
        "norm.eps": "epsilon",
        "init": "initialization initializer weight_init",
        "optimizer": "optim opt",
        "activation": "act act_fn nonlin nonlinearity",
        "schedule": "scheduler lr_scheduler lr_schedule",
        "experiment": "preset exp",
    }.items()
    for other in others.split()
}


class Suggestions:
    """Finds what a wrong word meant; whether it works is for the caller to try.

    Args: groups: those that have choices; choices: lists those of one; value: reads `KEY=VALUE`.
    """

    def __init__(
        self,
        groups: Sequence[str],
        choices: Callable[[str], list[str]],
        value: Callable[[str], object],
    ) -> None:
        self.groups, self.choices, self.value = groups, choices, value

    def choice(self, group: str, name: str) -> str:
        """Find the part that a wrong name means."""
        plural = registry.KINDS[group][0] if group in registry.KINDS else f"{group}s"
        everything = f"normbench list {plural}"
        alias = registry.also_called(group, name) if group in registry.KINDS else None
        meant = alias or near(name, self.choices(group))
        if meant is None:
            return f"{everything}    (all names)"
        also = ""
        if group == "model" and alias and "arch" in registry.facts(group, alias).options:
            also = f" model.arch={name.lower()}"
        return f"{group}={meant}{also}    (all names: {everything})"

    def option(self, text: str, name: str) -> str:
        """Find what an option that the part called `name` does not have means."""
        group, _, rest = _key(text).partition(".")
        member, dot, inner = rest.partition(".")
        if dot and member in registry.names(group):
            meant = near(inner, registry.facts(group, member).options)
            if inner in registry.facts(group, member).options:
                return f"{group}={member} {group}.{inner}={_value(text)}"
            return (
                self.fitting(f"{group}.{member}.{meant}", text) if meant else _listed(group, name)
            )
        owners = [
            other for other in registry.names(group) if rest in registry.facts(group, other).options
        ]
        if owners:
            owner, fix = min(owners, key=len), self.fitting(_key(text), text)
            addressed = self.fitting(f"{group}.{owner}.{rest}", text)
            return f"{shlex.quote(addressed)}{ELSE}{shlex.join((f'{group}={owner}', fix))}"
        options = list(default_part(group, name))[1:]
        meant = near(rest, options)
        return self.fitting(f"{group}.{meant}", text) if meant else _listed(group, name)

    def key(self, text: str) -> str:
        """Find the setting that a wrong key means."""
        key = self._meant(_key(text))
        if key is None:
            return HELP
        group, _, option = key.partition(".")
        fix = self.fitting(key, text)
        if option and group in registry.KINDS:
            owner = min(
                (each for each in registry.names(group) if option in default_part(group, each)),
                key=len,
            )
            fix = f"{shlex.quote(fix)}{ELSE}{shlex.join((f'{group}={owner}', fix))}"
        return f"{fix}    {ALL_SETTINGS}"

    def switch(self, key: str, value: str) -> str:
        """Find the setting that a word which begins with dashes means."""
        meant = key if key in (*defaults(), *self.groups) else self._meant(key)
        return f"{self.fitting(meant, f'{key}={value}')}    {ALL_SETTINGS}" if meant else HELP

    def fitting(self, key: str, text: str) -> str:
        """Return an override of `key` with the value of `text` if it takes that, else another."""
        value = _value(text)
        if key in self.groups:
            if value in self.choices(key):
                return f"{key}={value}"
            return self.choice(key, value).partition("    ")[0] if value else f"{key}=NAME"
        declared = _declared(key)
        try:
            declared.check(self.value(f"{key}={value}"))
            if _named(key, declared.default) and not _named(key, value):
                value = declared.default  # only the part itself knows what else it takes
        except HydraException:
            value = written(declared.default)
        except Unfit as unfit:
            value = written(unfit.fix)
        return f"{key}={value}"

    def default(self, key: str) -> object:
        """Return the default of a setting or of an option of any part."""
        return _declared(key).default if key in (*defaults(), *options_everywhere()) else None

    def _meant(self, key: str) -> str | None:
        alias = ALIASES.get(key.casefold().replace("-", "_"))
        if alias:
            return alias
        usual = (
            f"{group}.{option}"
            for group, name in default_parts().items()
            for option, _ in leaves(default_part(group, name))
            if option != "name"
        )
        # Initializers come last: their options are called like those of what they start.
        names = sorted([*usual, *options_everywhere()], key=lambda name: name.startswith("init."))
        return _most_like(key, [*defaults(), *self.groups, *names])


def tried(
    mistakes: Sequence[Mistake],
    texts: Sequence[str],
    works: Callable[[list[str], set[str]], bool],
) -> list[Mistake]:
    """Let each mistake suggest only what works when it stands in place of the wrong word.

    Args: texts: the command line; works: tells of another whether nothing is wrong with it but
        some keys, which are those of the other mistakes.
    """
    wrong = {_key(mistake.subject.lstrip("+~")) for mistake in mistakes}
    sound = [text for text in texts if _key(text.lstrip("+~")) not in wrong]

    def fits(way: Sequence[str]) -> bool:
        keys = set(map(_key, way))
        return works([*(text for text in sound if _key(text) not in keys), *way], wrong - keys)

    found = []
    for place, mistake in enumerate(mistakes):
        ways, remark = _ways(mistake)
        if ways and place < MISTAKES:
            work = ([shlex.join(way) for way in each if fits(way)] for each in ways)
            fix = next((" or ".join(each) for each in work if each), None)
            mistake = replace(mistake, fix=f"{fix}{remark}" if fix else _elsewhere(mistake))
        found.append(mistake)
    return found


def _ways(mistake: Mistake) -> tuple[list[list[list[str]]], str]:
    """Read a suggestion: what to try in turn, each several ways of some words; and a remark.

    There is nothing to try where the suggestion is not of settings.
    """
    fix, blanks, remark = mistake.fix.partition("    ")
    try:
        words = shlex.split(fix)
    except ValueError:
        return [], ""
    ways = [_parted(each, "or") for each in _parted(words, ELSE.strip())]
    if not all(OVERRIDE.fullmatch(word) for each in ways for way in each for word in way):
        return [], ""
    keys = dict.fromkeys([*map(_key, words), _key(mistake.subject)])
    ways += [[[f"{key}={written(defaults()[key])}"]] for key in keys if key in defaults()]
    return ways, blanks + remark


def _parted(words: Sequence[str], at: str) -> list[list[str]]:
    """Cut a list of words where one of them is `at`."""
    return [list(group) for apart, group in groupby(words, at.__eq__) if not apart]


def _elsewhere(mistake: Mistake) -> str:
    """Say where a word is explained for which nothing can be suggested that works."""
    group = _key(mistake.subject).partition(".")[0]
    if group in registry.KINDS:
        return f"normbench list {registry.KINDS[group][0]}    (names and options)"
    return HELP


@cache
def options_everywhere() -> tuple[str, ...]:
    """List the options of all parts, as `GROUP.OPTION`."""
    found = {
        f"{group}.{key}": None
        for group in registry.KINDS
        for name in registry.names(group)
        for key in registry.facts(group, name).options
    }
    return tuple(found)


def _most_like(key: str, names: Iterable[str]) -> str | None:
    """Find the name of which a key is a misspelling or the beginning, or that begins it.

    Among hundreds of names some is a bit like any word, so that more is asked than of a choice.
    """
    least = 2 / 3 if len(key) <= SHORT else 3 / 4

    def alike(name: str) -> float:
        last = name.rpartition(".")[2]
        begins = len(key) >= SHORT and (name.startswith(key) or last.startswith(key))
        begun = key.startswith(f"{name}_")
        return max(likeness(key, name), likeness(key, last), least * (begins or begun))

    found = max(names, key=alike)
    return found if alike(found) >= least else None


def _listed(group: str, name: str) -> str:
    """Say where the options of a part are listed."""
    return f"normbench list {registry.KINDS[group][0]} {name}    (its options)"


def _declared(key: str) -> Declared:
    """Find the declaration of a setting, or of an option of any part."""
    group, _, option = key.partition(".")
    if group not in registry.KINDS:
        return next(setting for setting in declared_keys() if setting.name == key)
    member, dot, inner = option.partition(".")
    if dot and member in registry.names(group):
        return registry.facts(group, member).options[inner]
    owned = (registry.facts(group, name).options for name in registry.names(group))
    return next(options[option] for options in owned if option in options)


def _named(key: str, value: object) -> bool:
    """Tell whether the value of an option, such as `init.base`, is the name of another part."""
    group = key.partition(".")[0]
    if group not in registry.KINDS or "choices" in _declared(key).limits:
        return False
    return isinstance(value, str) and registry.also_called(group, value) is not None


def _key(text: str) -> str:
    return text.partition("=")[0]


def _value(text: str) -> str:
    return text.partition("=")[2]
