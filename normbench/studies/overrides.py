"""Applies the overrides of a command line to a study. No torch, no Hydra."""

from __future__ import annotations

from collections.abc import Iterable

from normbench.errors import Mistake, Refused
from normbench.parts.options import copied
from normbench.runtime import storage
from normbench.studies.card import Card, checked

SHORT = {"seeds=auto": "seeds.screen=auto"}
GRID = "[0.01,0.03,0.1]"
KEYED = {  # settings of a run that a study says in its own words, and these
    "outputs": "--outputs DIR",
    "seed": "seeds.screen=12",
    "seeds": "seeds.screen=12",
    "seeds_max": "seeds.max=40",
    "lr": "lr.shared=0.03",
    "tune": "lr.headline=tuned",
    "tune_lrs": f"lr.grid={GRID}",
    "tune_seeds": "seeds.tune=3",
}


def overridden(card: Card, words: Iterable[str], size: str) -> Card:
    """Apply overrides: `seeds.screen=12`, `lr.grid=[0.01,0.1]`, `steps=200`, `delta.ID=2`.

    A key of the study goes to that key, any other is a setting of the recipe; both win over what
    the size says.
    Raises: Refused with all that cannot be read.
    """
    import yaml  # needed only here

    tree, mistakes = copied(dict(card.tree)), []
    for word in words:
        key, equals, text = SHORT.get(word, word).replace("seeds_max=", "seeds.max=").partition("=")
        try:
            deep = storage.nesting(text) > storage.DEPTH or len(text) > 1000
            value = yaml.safe_load(text) if not deep else None
        except yaml.YAMLError:
            value, deep = None, True
        if key in KEYED:
            mistakes.append(named_otherwise(key, text))
        elif not (key and equals) or deep:
            mistakes.append(Mistake(word, "is not of the form KEY=VALUE", "seeds.screen=12"))
        if mistakes:
            continue
        first, *rest = key.split(".")
        place = tree["sizes"].setdefault(size, {})
        if first in ("seeds", "lr", "delta", "factors") and len(rest) >= 1:
            if first != "factors":
                place = place.setdefault(first, {})
            place[".".join(rest)] = value
        else:
            place[key] = value
    if mistakes:
        raise Refused(*mistakes)
    return checked(tree, card.place)


def named_otherwise(key: str, value: object) -> Mistake:
    """Refuse a setting of a run that a study says in its own words."""
    return Mistake(f"{key}={value}", "is said otherwise in a study", KEYED[key])
