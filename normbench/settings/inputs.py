"""Reads and checks the settings of inputs: scalings, shifts, augmentation, blank steps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from normbench.errors import Mistake, counted
from normbench.parts import registry
from normbench.parts.options import nearest, written

if TYPE_CHECKING:
    from normbench.data._base import DatasetInfo

WIDEST = 4096  # numbers of an image up to which it is whitened: the matrix has their square
FORMS = ("invert", "brightness+A", "brightness-A", "contrast*A", "noise+A")
NUMBER = r"\d{1,3}(?:\.\d*)?|\.\d+"
WORD = re.compile(rf"([a-z]+)([-+*]?)((?:{NUMBER})?)")
AUGMENTATIONS = ("crop", "flip", "cutout")  # in the order in which they are applied
PAD = 4  # pixels that a crop adds around an image; a smaller image would be all padding


def ordered(augment: str) -> str:
    """Write a value of the setting `augment` in the order in which its steps are applied."""
    return "+".join(sorted(augment.split("+"), key=_place))


def augmentations(text: str) -> tuple[str, ...]:
    """Read a value of the setting `augment`: its steps, none for `none`."""
    return () if text == "none" else tuple(text.split("+"))


def read_shift(word: str) -> tuple[str, str, float]:
    """Read a word such as `invert` or `contrast*0.5`: its name, sign and size.

    Raises: ValueError if it names no shift.
    """
    found = WORD.fullmatch(word)
    if found and f"{found[1]}{found[2]}{'A' * bool(found[3])}" in FORMS:
        return found[1], found[2], float(found[3] or 0)
    raise ValueError(f"{word or 'nothing'} is none of {', '.join(FORMS)}")


def mistakes(tree: Mapping[str, Any], about: DatasetInfo) -> list[Mistake]:
    """List what is wrong with the settings of inputs in a cell."""
    return [
        *_list_mistakes(tree),
        *_blank_mistakes(tree),
        *_pixel_mistakes(tree, about),
        *_augment_mistakes(tree, about),
    ]


def _list_mistakes(tree: Mapping[str, Any]) -> Iterator[Mistake]:
    words, steps = tree["shifts"], tree["test_blank_steps"]
    once = {"shifts": list(words), "test_blank_steps": list(dict.fromkeys(steps))}
    try:
        shifts = [read_shift(word) for word in words]
        once["shifts"] = [words[shifts.index(shift)] for shift in dict.fromkeys(shifts)]
    except ValueError as error:
        fix = written(list(dict.fromkeys(_meant(word) for word in words)))
        yield Mistake(f"shifts={written(words)}", str(error), f"shifts={fix}")
    for key, values in once.items():
        if len(values) < len(tree[key]):
            why = "contains a duplicate"
            yield Mistake(f"{key}={written(tree[key])}", why, f"{key}={written(values)}")


def _meant(word: str) -> str:
    """Find the shift most like a word, which may be one, with its number if that fits."""
    form = nearest(re.sub(r"[\d.]+", "A", word), FORMS)
    if not form.endswith("A"):
        return form
    number = re.search(NUMBER, word)
    return form[:-1] + (number[0] if number and form[-2] in word else "0.5")


def _blank_mistakes(tree: Mapping[str, Any]) -> Iterator[Mistake]:
    model = tree["model"]["name"]
    reads = registry.facts("model", model).constants["recurrent"]
    for key, off in (("blank_steps", 0), ("test_blank_steps", [])):
        given = f"{key}={written(tree[key])}"
        if tree[key] != off and not reads:
            able = [
                name
                for name in registry.names("model")
                if registry.facts("model", name).constants["recurrent"]
            ]
            yield Mistake(given, f"model={model} reads no sequence", f"model={min(able, key=len)}")
        elif tree[key] != off and tree["inputs"] not in ("standardized", "raw"):
            why = "scales each pixel of an image by itself, and blank steps have none"
            yield Mistake(f"inputs={tree['inputs']}", why, f"inputs=standardized or {key}={off}")
            return


def _pixel_mistakes(tree: Mapping[str, Any], about: DatasetInfo) -> Iterator[Mistake]:
    channels, height, width = about.shape
    features = channels * height * width
    if tree["inputs"] == "whitened" and features > WIDEST:
        why = f"{channels}x{height}x{width} = {features} features are more than {WIDEST}"
        yield Mistake("inputs=whitened", why, "inputs=per_feature")
    least = min(about.sizes[0], about.sizes[2])
    if tree["mix"] != "none" and least <= about.classes:
        why = f"{counted(least, 'image')} of {about.classes} classes do not make two domains"
        yield Mistake(f"mix={tree['mix']}", why, "mix=none")


def _augment_mistakes(tree: Mapping[str, Any], about: DatasetInfo) -> Iterator[Mistake]:
    text = tree["augment"]
    words, given = augmentations(text), f"augment={text}"
    wrong = [word for word in words if word not in AUGMENTATIONS]
    meant = [nearest(word, AUGMENTATIONS) for word in words if word not in ("", "none")]
    fix = f"augment={'+'.join(sorted({*meant}, key=_place)) or 'none'}"
    _, height, width = about.shape
    if wrong:
        yield Mistake(given, f"{wrong[0] or 'nothing'} is none of {', '.join(AUGMENTATIONS)}", fix)
    elif len({*words}) < len(words):
        yield Mistake(given, "contains a duplicate", fix)
    elif not {*words}.isdisjoint(("crop", "cutout")) and min(height, width) <= PAD:
        why = f"images of {height}x{width} pixels are too small for it"
        yield Mistake(given, why, f"augment={'flip' if 'flip' in words else 'none'}")


def _place(word: str) -> int:
    return (*AUGMENTATIONS, word).index(word)
