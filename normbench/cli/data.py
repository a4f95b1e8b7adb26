"""`normbench data`: gets, checks and shows data sets; `train` gets here what its runs lack."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench.cli.parser import Parser, screen
from normbench.display import pictures
from normbench.display.screen import Screen
from normbench.errors import PATH, Mistake, NormbenchError, Refused, shown
from normbench.parts import registry
from normbench.parts.options import near, quoted
from normbench.results.tables import Table, TableCell
from normbench.runtime import storage
from normbench.settings import schema
from normbench.settings.schema import Config

if TYPE_CHECKING:
    from normbench.data._base import Data, Dataset

ALL_SETS = "(all sets: normbench data list)"
EXAMPLES = (
    "normbench data list",
    "normbench data download cifar10               into data/, or $NORMBENCH_DATA, or --root DIR",
    "normbench data verify mnist",
    "normbench data show mnist -o mnist.png",
    "normbench data show imagefolder data.path=DIR",
)
DIGITS = 16  # of a SHA-256 in the table


def parser() -> Parser:
    """Return the parser of the command's words."""
    made = Parser("data", "List the data sets; download, verify or show one.", EXAMPLES)
    verbs = ("list", "download", "verify", "show")
    made.add_argument("what", choices=verbs, metavar="|".join(verbs))
    made.add_argument("words", nargs="*", metavar="NAME [data.OPTION=VALUE ...]")
    made.add_argument("--root", metavar="DIR", help="data.root: folder of downloaded sets")
    made.add_argument("-o", dest="picture", metavar="FILE.png", help="show: write a picture")
    return made


def run(words: list[str]) -> int:
    """List the data sets; download, verify or show one."""
    options = parser().parsed(words)
    names = [word for word in options.words if "=" not in word]
    overrides = [word for word in options.words if "=" in word]
    overrides += [quoted("data.root", options.root)] if options.root else []
    command(options.what, names, overrides, options.picture, screen(options))
    return 0


def command(
    what: str, names: Sequence[str], overrides: Sequence[str], picture: str | None, screen: Screen
) -> None:
    """Do what the words of `normbench data` say.

    Raises: Refused if they say too little or too much; what the command itself raises.
    """
    if picture is not None and what != "show":
        fix = "normbench data show NAME -o FILE.png"
        raise Refused(Mistake(f"-o {picture}", f"data {what} draws no picture", fix))
    known = registry.choices("data")
    if names and names[0] not in known:
        meant = near(names[0], known)
        fix = f"normbench data {what} {meant}    {ALL_SETS}" if meant else "normbench data list"
        raise Refused(Mistake(names[0], "no data set has this name", fix))
    if len(names) > 1:
        fix = f"normbench data {what} {shown(names[0])}"
        raise Refused(Mistake(names[1], "is one name too many", fix))
    if what == "list":
        listing(names, overrides, screen)
    elif not names:
        fix = f"normbench data {what} {registry.names('data')[0]}    {ALL_SETS}"
        raise Refused(Mistake(f"data {what}", "no data set is named", fix))
    elif what == "show":
        show(names[0], overrides, picture, screen)
    else:
        {"download": download, "verify": verify}[what](names[0], overrides, screen)


def listing(names: Sequence[str], overrides: Sequence[str], screen: Screen) -> None:
    """List the data sets, or one, their sizes, and which are here.

    An option is taken by the sets that have it.

    Raises: Refused if no set has it, or if there is no such set.
    """
    listed = names or registry.names("data")
    taken = {
        name: [text for text in overrides if names or _option(text) in _options(name)]
        for name in listed
    }
    odd = [text for text in overrides if not any(text in texts for texts in taken.values())]
    if odd:
        chosen(listed[0], odd)
    parts = {name: chosen(name, texts) for name, texts in taken.items()}
    sets = [_listed(name, part) for name, part in parts.items()]
    screen.document({"command": "data", "what": "list", "sets": sets})
    head = ("name", "images", "shape", "classes", "split", "here")
    rows = tuple(tuple(map(TableCell, _row(known))) for known in sets)
    notes = [
        f"{known['label']}: {' and '.join(known['cut'])} are cut from the training images"
        for known in sets
        if "test" in (known["cut"] or ())
    ]
    notes += [f"{known['label']}: {note}" for known in sets for note in known["notes"] or ()]
    # What is merely not here yet has its command in the row.
    notes += [
        known["fault"]
        for known, (name, part) in zip(sets, parts.items(), strict=True)
        if known["fault"] and (taken[name] or part.downloads()) and _there(part)
    ]
    screen.table(Table("", head, rows, notes=tuple(notes)))


def download(name: str, overrides: Sequence[str], screen: Screen) -> None:
    """Download what a set lacks, each file checked by its digest, and say where it lies.

    Raises: Refused if there is no such set or option; MachineError if it cannot be had.
    """
    part = chosen(name, overrides)
    got = fetch([part], screen)
    about = part.about()
    remote = [{"file": str(file.path), "url": file.url} for file in part.downloads()]
    facts = {"where": about.where, "files": remote, "downloaded": got}
    screen.document({"command": "data", "what": "download", "set": name, **facts})
    screen.text(f"{name} is here{'' if got else ' already'}: {about.where}")


def verify(name: str, overrides: Sequence[str], screen: Screen) -> None:
    """Read every file of a set again and compare it with what it must be.

    Raises: Refused if there is no such set or option; FileRefused naming what is damaged.
    """
    part = chosen(name, overrides)
    part.require()
    files = list(part.verify())
    listed = [{"file": file.name, "bytes": file.size, "sha256": file.sha256} for file in files]
    screen.document({"command": "data", "what": "verify", "set": name, "files": listed})
    if not files:
        screen.text(f"{name} is sound: it is {part.about().where}")
        return
    rows = tuple(
        (
            TableCell(file.name),
            TableCell(f"{file.size:,}"),
            TableCell(f"{file.sha256[:DIGITS]}…"),
            TableCell("sound"),
        )
        for file in files
    )
    screen.table(Table("", (name, "bytes", "SHA-256", ""), rows, right=frozenset({1})))


def show(name: str, overrides: Sequence[str], picture: str | None, screen: Screen) -> None:
    """Print an example of each class as characters; write ten of each as a PNG file if asked to.

    Raises: Refused if there is no such set or option; FileRefused if it is not here or damaged.
    """
    target = _target(picture)
    part = chosen(name, overrides)
    part.require()
    loaded = part.load()
    parts = {"train": loaded.train, "val": loaded.val, "test": loaded.test}
    counts = {
        subset: dict(zip(loaded.classes, _counts(split.labels, loaded), strict=True))
        for subset, split in parts.items()
    }
    if target:
        storage.write_atomic(target, pictures.png(pictures.sheet(loaded)))
    facts = {"label": loaded.label, "shape": list(loaded.shape), "images": counts}
    screen.document({"command": "data", "what": "show", "set": name, **facts, "picture": picture})
    sizes = "/".join(str(len(split)) for split in parts.values())
    shape = "x".join(map(str, loaded.shape))
    head = f"{loaded.label}  {shape}  {len(loaded.classes)} classes  {sizes}"
    screen.lines([head, "", *pictures.gallery(loaded, screen.columns)])
    if target:
        screen.note(f"{pictures.EXAMPLES} of each class: {target}")


def chosen(name: str, overrides: Sequence[str]) -> Data:
    """Make the part of a set that there is, with options as they stand behind its name.

    Raises: Refused with all mistakes; DataError if an option does not fit.
    """
    options: Mapping[str, Any] = {"name": name}
    if overrides or name not in registry.names("data"):
        from normbench.settings import compose

        options = compose.Grid(compose.loader()).part("data", [f"data={name}", *overrides])
    part: Data = schema.part("data", options)
    return part


def missing(configs: Iterable[Config]) -> list[Data]:
    """List the sets that runs need, that are not here, and that they may download.

    Raises: FileRefused if one may not be downloaded, or has to come from elsewhere.
    """
    absent = []
    differing = {json.dumps([config.download, config.data]): config for config in configs}
    for config in differing.values():
        part: Data = schema.part("data", config.data)
        if config.download and part.downloads():
            absent.append(part)
        else:
            part.require()
    return absent


def fetch(parts: Iterable[Data], screen: Screen) -> list[str]:
    """Download the files that sets lack, or that are damaged, and return their names.

    Raises: MachineError if one cannot be had; FileRefused if another one came.
    """
    got = []
    for remote in [remote for part in parts for remote in part.downloads()]:
        if not remote.here:
            with screen.transfer(remote.file.name, remote.file.size) as so_far:
                remote.fetch(so_far)
            got.append(remote.file.name)
    return got


def _option(text: str) -> str:
    return text.partition("=")[0].removeprefix("data.")


def _options(name: str) -> Mapping[str, Any]:
    return registry.facts("data", name).options


def _listed(name: str, part: Data) -> dict[str, Any]:
    """Tell what is known of a set, and the fault of its files; null where there is nothing."""
    about = mistake = None
    try:
        about = part.about()
        part.require()
    except NormbenchError as error:
        mistake = error.mistakes[0]
    here = about is not None and mistake is None
    return {
        "name": name,
        "label": about and about.label,
        "images": about and sum(about.sizes),
        "shape": about and list(about.shape),
        "classes": about and about.classes,
        "split": about and list(about.sizes),
        "cut": about and list(about.cut),
        "notes": about and list(about.lacking),
        "here": here,
        "where": about.where if about and here else None,
        "fix": mistake and mistake.fix,
        "fault": mistake and f"{shown(mistake.subject, PATH)}: {mistake.why}",
    }


def _there(part: Data) -> bool:
    """Tell whether the files of a set are there, damaged or not."""
    return all(remote.path.exists() for remote in part.downloads())


def _row(known: Mapping[str, Any]) -> tuple[str, ...]:
    name, label = known["name"], known["label"]
    here = ", ".join(filter(None, ["yes", known["where"]]))
    return (
        name if label in (None, name) else f"{name} ({label})",
        f"{known['images']:,}" if known["images"] else "any",
        "x".join(map(str, known["shape"] or ["any"])),
        str(known["classes"] or "any"),
        "/".join(map(str, known["split"] or ["any"])),
        here if known["here"] else f"no    {known['fix']}",
    )


def _counts(labels: Any, loaded: Dataset) -> list[int]:
    counts: list[int] = labels.bincount(minlength=len(loaded.classes)).tolist()
    return counts


def _target(picture: str | None) -> Path | None:
    """Return where the sheet is to be written.

    Raises: Refused if that is no place for a PNG file.
    """
    if picture is None:
        return None
    path = Path(picture)
    if path.suffix.lower() != ".png" or "\0" in picture:
        raise Refused(Mistake(f"-o {picture}", "is not the name of a PNG file", "-o FILE.png"))
    if not path.parent.is_dir():
        why = f"there is no folder {shown(path.parent)}"
        raise Refused(Mistake(f"-o {picture}", why, f"-o {shown(path.name)}"))
    return path
