"""The readable part of a run's name: its parts, its batch, and what differs from the defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from normbench.parts import registry
from normbench.parts.options import leaves, written
from normbench.settings.declared import GROUPS, default_parts

LONGEST = 120  # characters; of words beyond that, the digest behind them tells runs apart
LONG = ("init.path", "init.sha256")  # the digest behind the words tells runs apart by them
FOLLOWING = ("epochs", "examples", "eval_every", "warmup_least", "device", "seed")  # said otherwise


def readable(
    tree: Mapping[str, Any], usual: Mapping[str, Any], label: str, steps_per_epoch: int
) -> str:
    """Name a run by its model, norm, batch and data, and by each option that was chosen.

    Args: tree: the settings that make the weights; usual: values that are not told, by dotted key;
    label: of the data.
    """
    data = [label] if label != tree["data"]["name"] else []
    words = [*_part(tree, "model", usual), *_part(tree, "norm", usual), f"b{tree['batch']}", *data]
    for word in _others(tree, usual, max(1, steps_per_epoch)):
        if len("-".join([*words, word])) <= LONGEST:
            words.append(word)
    return "-".join(words)


def warmup_share(tree: Mapping[str, Any]) -> float:
    """Return the share of the steps that warm up, which has its least number of steps."""
    facts = registry.facts("schedule", tree["schedule"]["name"]).constants
    least, steps = int(tree["warmup_least"]), int(tree["steps"])
    if not tree["warmup"] or not facts["warms_up"]:
        least = 0
    return max(float(tree["warmup"]), min(least, steps // 2) / steps)


def usual_activation(norm: str, model: str) -> str:
    """Name the activation that the norm brings, or else the model has."""
    brings = registry.facts("norm", norm).constants["brings"]
    own: str = registry.facts("model", model).constants["activation"]
    return own if brings == "relu" else str(brings)


def _others(
    tree: Mapping[str, Any], usual: Mapping[str, Any], steps_per_epoch: int
) -> Iterator[str]:
    """Yield a word for each choice besides model, norm, batch and data set."""
    norm, model = tree["norm"]["name"], tree["model"]["name"]
    names = {**default_parts(), "activation": usual_activation(norm, model)}
    names["data"] = tree["data"]["name"]
    for group in GROUPS:
        if group not in ("model", "norm"):
            name, *options = _part(tree, group, usual)
            yield from [name] * (name != names[group])
            yield from options
    steps = tree["steps"] or 0
    if steps % steps_per_epoch:
        yield f"steps{steps}"
    elif steps > steps_per_epoch:
        yield f"epochs{steps // steps_per_epoch}"
    facts = registry.facts("norm", norm).constants
    least = {key: usual[key] for key in ("warmup", "warmup_least")}
    follows = {
        "batch": tree["batch"],
        "steps": steps,
        "placement": facts["placement"],
        "bias": "on" if facts["bias"] else usual["bias"],
        "warmup": warmup_share({**tree, **least}),
    }
    for key, value in tree.items():
        if key in usual and key not in FOLLOWING and value != follows.get(key, usual[key]):
            yield _word(key, value)


def _part(tree: Mapping[str, Any], group: str, usual: Mapping[str, Any]) -> list[str]:
    """Give the name of a part and its options that are not as usual."""
    changed = [
        _word(key, value)
        for key, value in leaves(tree[group])
        if value != usual.get(f"{group}.{key}", value) and f"{group}.{key}" not in LONG
    ]
    return [tree[group]["name"], *changed]


def _word(key: str, value: Any) -> str:
    """Say an option in characters that need no quotes in a shell."""
    text = written(value)
    word = f"{key}_{text}" if text[:1].isalpha() else f"{key}{text}"
    return re.sub(r"[^\w.+-]+", "_", word, flags=re.ASCII).strip("_")
