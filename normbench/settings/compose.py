"""From a command line to checked cells.

Composing costs 50 ms, so it is done once per choice of parts; values are then put into copies.
Every mistake of a command line, also those inside the lists of a sweep, is collected and reported
at once, before Hydra starts a job and without importing torch.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import cache, partial
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl

from normbench.errors import Mistake, NormbenchError, PartError, Refused
from normbench.parts.options import copied, leaves
from normbench.settings import resolve, rules, schema, userfiles
from normbench.settings.cell import Cell, Row
from normbench.settings.composer import (
    GRIDS,
    PRESETS,
    Composed,
    Composer,
    loader,
    resolved,
)
from normbench.settings.declared import defaults
from normbench.settings.fields import AUTO
from normbench.settings.members import idle_words, is_member, is_there, without_idle
from normbench.settings.overrides import (
    HERE,
    Overrides,
    beside,
    current,
    each_alone,
    key_of,
)
from normbench.settings.packaged import packaged
from normbench.settings.schema import WORDS
from normbench.settings.suggest import tried

__all__ = ["Grid", "loader"]


class Grid:
    """Composes and checks the cells that the overrides of a command line describe.

    After `cells`: `hydra` is what Hydra made of its own words, `notes` say what of the command line
    is left out of some cells.
    """

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self.loader, self.composer = loader, Composer(loader)
        self.base = cache(lambda chosen: self._base(chosen))
        self.value = cache(lambda text: self.read.value(text))
        self.about = cache(lambda data: schema.data_about({"data": json.loads(data)}))
        self.notes: list[str] = []
        self.here = True  # whether the runs will be on this machine
        self._anew()

    def _anew(self) -> None:
        self.read = Overrides(self.loader)
        self.idle: dict[str, dict[str, None]] = {}  # by option: parts that do not have it
        self.used: set[str] = set()  # options that the part of some cell has

    def cells(
        self, overrides: Sequence[str], multirun: bool, switches: Mapping[str, str] | None = None
    ) -> list[Cell]:
        """Return every cell, in the order of the command line.

        For a sweeper that chooses its cells itself: some in which every value occurs.

        Args: switches: words such as `--gpus` that are no options, with their values.
        Raises: Refused with all mistakes; FileRefused if the data is not here.
        """
        multirun = self._hydra(overrides, multirun)
        texts = [current(text, multirun) for text in overrides]
        if multirun:
            texts = beside(texts, self.hydra.params)
        moves = self.hydra.changes_folder
        self.texts = self.read.absolute(texts, self.hydra.tree) if moves else texts
        for word, value in (switches or {}).items():
            self.read.unknown_switch(word, value)
        cells = self._checked(self.texts, multirun)
        if self.read.mistakes:
            mistakes = tried(self.read.ordered(), self.texts, partial(self._works, multirun))
            self.read.given(self.texts)
            raise Refused(*(self._placed(each, overrides) for each in mistakes))
        return cells

    def trial(self, row: Sequence[str]) -> Cell:
        """Check a cell that a sweeper has chosen.

        Raises: Refused with all mistakes.
        """
        self._anew()
        self.read.sweeper = self.hydra.sweeper
        texts = [current(text.lstrip("+")) for text in row]
        idle = idle_words(texts, self._seen(texts))
        texts = [text for text in texts if key_of(text) not in idle]
        (cell,) = self._checked(texts, multirun=False)
        self.read.stop()
        return cell

    def part(self, group: str, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the checked options of one part, chosen and set as for a training.

        Raises: Refused with all mistakes, such as settings of anything else.
        """
        texts = [current(text) for text in overrides]
        self.read.given(texts)
        row = []
        for text in texts:
            if key_of(text).partition(".")[0] != group:
                self.read.say(text, f"is not an option of {group}", f"{group}.OPTION=VALUE")
            else:
                row += self.read.read(text, multirun=False)
        tree = self.checked(row)
        self.read.stop()
        options: dict[str, Any] = tree[group]
        return options

    def checked(self, row: Sequence[str]) -> dict[str, Any]:
        """Compose one combination and check its values; mistakes are noted."""
        tree = self._tree(tuple(row))
        self.read.mistakes.update(dict.fromkeys(resolve.check_values(tree)))
        return tree

    def cell(self, row: Sequence[str]) -> Cell:
        """Compose and check one combination of `KEY=VALUE` texts."""
        tree = self._tree(tuple(row))
        wrong = resolve.check_values(tree)
        if wrong:
            self.read.mistakes.update(dict.fromkeys(wrong))
            return Cell(tuple(row), None)
        try:
            about = self.about(json.dumps(tree["data"]))
        except PartError as error:
            self.read.mistakes.update(dict.fromkeys(error.mistakes))
            return Cell(tuple(row), None)
        misfits = rules.contradictions(tree, about)
        misfits += rules.said_twice(dict(text.split("=", 1) for text in row))
        if tree["device"] == "auto" and not self.here:
            why = "what there is cannot be known here, the runs are on other machines"
            misfits.append(Mistake("device=auto", why, "device=cuda or device=cpu"))
        if tree["seeds"] == AUTO and not self.rounds:
            why = "is for normbench's own launcher and lists: each round looks at all cells"
            misfits.append(Mistake("seeds=auto", why, "seeds=5"))
        if misfits:
            return Cell(tuple(row), None, tuple(misfits))
        return Cell(tuple(row), resolve.resolve(tree, about, self.here))

    def _hydra(self, overrides: Sequence[str], multirun: bool) -> bool:
        """Compose Hydra's own words with the preset, and tell whether there is a sweep."""
        wrong = self.composer.take(self.read.hydras(overrides))
        self.read.mistakes.update(dict.fromkeys(wrong))
        # With all parts of one run it is composed only once; a user's files may be wrong together.
        one = not multirun and not self.composer.folders
        texts = {key_of(text): text for text in map(current, overrides)}
        groups = texts.keys() & {PRESETS, *(self.read.groups if one else ())}
        known = {f"{group}={name}" for group in groups for name in self.read.choices(group)}
        self.hydra: Composed = self.base(tuple(text for text in texts.values() if text in known))
        self.read.sweeper, self.here = self.hydra.sweeper, self.hydra.launcher in HERE
        self.rounds = self.hydra.launcher == HERE[0] and self.hydra.sweeper in GRIDS
        if multirun or self.hydra.multirun:
            self.read.folders(overrides, self.hydra.launcher)
        if self.hydra.params and not multirun and not self.hydra.multirun:
            swept = " ".join(f"{key}={value}" for key, value in self.hydra.params.items())
            self.notes.append(f"one run; -m sweeps {swept}, as the file says")
        return multirun or self.hydra.multirun

    def _checked(self, texts: Sequence[str], multirun: bool, alone: bool = False) -> list[Cell]:
        """Check texts that are written as Hydra reads them, and collect the mistakes."""
        self.read.given(texts)
        choices = [found for text in texts if (found := self.read.read(text, multirun))]
        alone = alone or self.read.sweeper not in GRIDS
        if not alone:
            self._check_count(math.prod(map(len, choices)), choices)
        rows = each_alone(choices) if alone else itertools.product(*choices)
        split: Iterable[tuple[Row, Row]] = ((row, ()) for row in rows)
        if multirun and any(is_member(key) or key in rules.IDLE for key in self.read.keys):
            split = self._told(without_idle(list(rows), self._seen))
        # What was refused is left out, so that one look finds the other mistakes as well.
        cells = [
            replace(self.cell([text for text in row if text not in idle]), row=row, idle=idle)
            for row, idle in split
        ]
        misfits = [mistake for cell in cells for mistake in cell.misfits]
        configs = [cell.config for cell in cells if cell.config]
        self.read.mistakes.update(dict.fromkeys(rules.of_all_cells(choices, configs)))
        self.read.mistakes.update(dict.fromkeys(rules.too_many(configs)))
        self.read.mistakes.update(dict.fromkeys(rules.tuned_away(configs, self.read.keys)))
        for text, names in self.idle.items():
            if key_of(text) not in self.used:
                self.read.unknown_option(text, *names)
        skip = all(cell.config is None or cell.config.skip_invalid for cell in cells)
        if misfits and not (multirun and skip and any(cell.config for cell in cells)):
            self.read.mistakes.update(dict.fromkeys(misfits))
        return cells

    def _works(self, multirun: bool, line: Sequence[str], known: Set[str]) -> bool:
        """Tell whether nothing is wrong with a command line but the keys that are known to be.

        Looks at each value of a list once.
        """
        self._anew()
        self.read.sweeper = self.hydra.sweeper
        texts = [current(text, multirun) for text in line]
        try:
            cells = self._checked(texts, multirun, alone=True)
        except NormbenchError:
            return False
        idle = not multirun and any(cell.config and cell.config.seeds == AUTO for cell in cells)
        wrong = {key_of(mistake.subject) for mistake in self.read.mistakes} - known
        return not wrong and not idle  # one run decides no comparison

    def _seen(self, row: Sequence[str]) -> dict[str, Any]:
        """Compose a row only to look at it."""
        before = set(self.used), {key: dict(names) for key, names in self.idle.items()}
        tree = self._tree(tuple(row))
        self.used, self.idle = before
        return tree

    def _told(self, split: Mapping[tuple[Row, Row], Mapping[str, str]]) -> list[tuple[Row, Row]]:
        """Note once where a word makes no difference."""
        told: dict[str, dict[str, None]] = {}
        for places in split.values():
            for key, place in places.items():
                told.setdefault(key, {})[place] = None
        for key, names in told.items():
            self.notes.append(f"{key} makes no difference with {', '.join(names)}")
        return list(split)

    def _check_count(self, count: int, choices: list[list[str]]) -> None:
        given = dict(row[0].split("=", 1) for row in choices)
        limit = given.get("max_cells", str(defaults()["max_cells"]))
        if not limit.isdigit() or count <= int(limit):
            return
        fix = f"max_cells={count}"
        if count > rules.MOST:
            fix = f"shorter lists: at most {rules.MOST:,} cells with max_cells={rules.MOST}"
        raise Refused(
            *self.read.ordered(),
            Mistake(f"max_cells={limit}", f"this sweep has {count:,} cells", fix),
        )

    def _tree(self, row: Row) -> dict[str, Any]:
        """Compose one combination; an unknown option is a mistake and left out."""
        chosen = tuple(text for text in row if key_of(text) in self.read.groups)
        tree = copied(self.base(chosen).tree)
        known = dict(leaves(tree))
        for text in row:
            key = key_of(text)
            if text in chosen:
                continue
            group, _, rest = key.partition(".")
            member, _, option = rest.partition(".")
            if is_member(key) and tree[group]["name"] == member:
                key = f"{group}.{option}"
            if key in known:
                self.used.add(key_of(text))
                resolve.put(tree, key, copied(self.value(text)))
            elif group in WORDS or is_there(key):
                # Cells of other orders ignore it, as when it was a setting of its own.
                self.idle.setdefault(text, {})[tree[group]["name"]] = None
            else:
                self.read.unknown_option(text, tree[group]["name"])
        return resolved(tree)

    def _base(self, chosen: Row) -> Composed:
        known = not self.composer.words and not self.composer.folders
        return packaged(chosen) if known else self.composed(chosen)

    def composed(self, chosen: Row) -> Composed:
        """Compose a choice of parts, and check what files say."""
        made = self.composer.compose(chosen)
        self._check_files(made.tree, chosen)
        return made

    def _check_files(self, tree: dict[str, Any], chosen: Row) -> None:
        """Check and complete what a user's own configuration files say.

        Raises: Refused, since nothing can be composed from wrong files.
        """
        if found := userfiles.wrong(tree):
            self.composer.readable(chosen)
            raise Refused(*self.read.mistakes, *(self._placed(each, chosen) for each in found))

    def _placed(self, mistake: Mistake, words: Sequence[str]) -> Mistake:
        """Say in which file of the user's a wrong setting stands, unless it is one of the words."""
        key = key_of(mistake.subject)
        place = None if key in self.read.keys else self.composer.place(key, words)
        return replace(mistake, why=f"{mistake.why} ({place})") if place else mistake
