"""What Hydra composed for a job of another launcher, checked as a command line is."""

from __future__ import annotations

from typing import Any

from normbench.errors import Refused
from normbench.settings import resolve, rules, schema, userfiles
from normbench.settings.cell import Cell
from normbench.settings.members import fold


def checked(tree: dict[str, Any]) -> Cell:
    """Check a configuration.

    Options that address a part by name, as `norm.gn.groups` does, are of no use beside others.
    Raises: Refused with what is wrong, or does not go together.
    """
    fold(tree)
    mistakes = userfiles.wrong(tree) or resolve.check_values(tree)
    if mistakes:
        raise Refused(*mistakes)
    about = schema.data_about(tree)
    misfits = rules.contradictions(tree, about)
    if misfits:
        raise Refused(*misfits)
    return Cell((), resolve.resolve(tree, about))
