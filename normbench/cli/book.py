"""`normbench book`: runs every study, and writes their verdicts as one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from normbench.cli import report, study
from normbench.cli.parser import Parser, outputs, screen
from normbench.errors import Mistake, NormbenchError, Refused, first_line, pasted

if TYPE_CHECKING:
    from normbench.display.screen import Screen
    from normbench.settings.compose import Grid
    from normbench.studies.book import Chapter
    from normbench.studies.card import Card

EXAMPLES = (
    "normbench book                                 trains what is missing of all studies",
    "normbench book bn-fig1 pre-post -o two.md      only these",
    "normbench book --stored -o docs/claims.md      trains nothing",
)


def parser() -> Parser:
    """Return the parser of the command's words."""
    text = "Run every study at a size, and write the verdicts: claims.md, and claims.html beside."
    made = Parser("book", text, EXAMPLES)
    made.add_argument("names", nargs="*", metavar="NAME", help="studies (default: all that ship)")
    made.add_argument("--size", default="quick", help="quick (default), cpu or full")
    made.add_argument("--stored", action="store_true", help="train nothing, say what is there")
    about = "a .md (default: claims.md in the folder of outputs)"
    made.add_argument("-o", "--out", metavar="FILE", type=Path, help=about)
    return made


def run(words: list[str]) -> int:
    """Write the book.

    Returns: 0; 1 if a study came to no verdict for a run that failed.
    Raises: Refused or MachineError if it cannot be written.
    """
    from normbench.runtime import storage
    from normbench.settings import compose
    from normbench.studies import book
    from normbench.studies import card as cards

    options = parser().parsed(words)
    shown, place = screen(options), outputs(options)
    found = [cards.read(name) for name in options.names or cards.packaged()]
    sizes = list(dict.fromkeys(size for card in found for size in card.sizes))
    if options.size not in sizes:
        why = f"there are {', '.join(sizes)}"
        raise Refused(Mistake(f"--size {options.size}", why, f"--size {sizes[0]}"))
    usual = Path(place) / "claims.md"
    path = report.target(options.out, (".md",), "-o claims.md") if options.out else usual
    storage.make_directory(path.parent)  # before hours of training
    shelf = Shelf(options.size, place, compose.Grid(compose.loader()))
    chapters = [shelf.chapter(card, shown, trains=not options.stored) for card in found]
    if shelf.trained:  # by then runs that several studies share may have been trained once more
        chapters = [
            shelf.chapter(each.card, shown, trains=False) if each.found else each
            for each in chapters
        ]
    storage.write_atomic(path, book.markdown(chapters, options.size))
    storage.write_atomic(path.with_suffix(".html"), book.html(chapters, options.size))
    verdicts = [chapter.found for chapter in chapters if chapter.found]
    shown.document({"command": "book", "file": str(path), "verdicts": verdicts})
    shown.table(book.overview(verdicts))
    shown.note(f"book {pasted(path)} and {pasted(path.with_suffix('.html'))}")
    return int(shelf.failed)


@dataclass
class Shelf:
    """The studies of a book at one size, with their runs below a folder.

    Args: trained, failed: whether a run was trained, or one failed.
    """

    size: str
    place: str
    grid: Grid
    trained: bool = False
    failed: bool = False

    def chapter(self, card: Card, shown: Screen, trains: bool) -> Chapter:
        """Bring a study to its verdict, or say why it has none."""
        from normbench.studies.book import Chapter

        try:
            return self._judged(card, shown, trains)
        except NormbenchError as error:
            self.failed = self.failed or error.code == 1
            shown.warn(error.mistakes[0].text)
            return Chapter(card, self.size, None, first_line(error))

    def _judged(self, card: Card, shown: Screen, trains: bool) -> Chapter:
        """Bring a study to its verdict.

        Raises: NormbenchError if it comes to none.
        """
        from normbench.studies import record, resolve
        from normbench.studies.book import Chapter

        if self.size not in card.sizes:
            return Chapter(card, self.size, None, f"has no size {self.size}")
        plan = study.planned(resolve.resolve(card, self.size), self.place, grid=self.grid)
        if trains:
            self.trained = self.trained or bool(plan.left)
            shown.heading([f"{card.id}  {card.text('claim')}"])
            study.trained(plan, self.place, shown)
        elif plan.left:
            return Chapter(card, self.size, None, f"pending {plan.done()}/{plan.seeds} seeds")
        folder = record.place(self.place, plan.study)
        return Chapter(card, self.size, study.concluded(plan, self.place), folder=folder)
