"""Parts of a user's own folder, `--parts DIR`: the one place that runs code which is no package.

It does so only for the option of a command line, never for what a file or a run says.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

from normbench.errors import Mistake, Refused
from normbench.parts import registry
from normbench.parts.options import Options

PACKAGE = "user"  # what they are listed under


def add(folder: str) -> None:
    """Make the parts of a folder known: `DIR/norms/foo.py` is `norm=foo`, and so on for each kind.

    Raises: Refused if there are none, if a file cannot be run or has not one part, or if normbench
        has a part of this name.
    """
    given, place = f"--parts {folder}", Path(folder).expanduser()
    found = {
        (group, path.stem): path
        for group, (kind, _) in registry.KINDS.items()
        for path in sorted((place / kind).glob("[!_]*.py"))
    }
    if not found:
        why = "has no part such as norms/NAME.py"
        raise Refused(Mistake(given, why, "--parts DIR    (with DIR/norms/NAME.py)"))
    for (group, name), path in found.items():
        if name in registry.names(group):
            why = f"{path}: {group}={name} is there already"
            raise Refused(Mistake(given, why, f"mv {path} {path.with_stem(f'my_{name}')}"))
        module = _run(path, f"{PACKAGE}.{registry.KINDS[group][0]}.{name}", given)
        part = _part(module, registry.KINDS[group][1], path, given)
        value = f"{module.__name__}:{part.__name__}"
        entry = EntryPoint(name, value, f"normbench.{registry.KINDS[group][0]}")
        registry.add(entry, hashlib.sha256(path.read_bytes()).hexdigest())


def _run(path: Path, name: str, given: str) -> ModuleType:
    """Run a file as a module, under a name by which it can be imported again.

    Raises: Refused with what it raised.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        why = f"{path}: {type(error).__name__}: {error}"
        raise Refused(Mistake(given, why, f"python {path}    (which says where)")) from error
    return module


def _part(module: ModuleType, base: str, path: Path, given: str) -> type[Options]:
    """Find the one class of a module that derives from the base of its kind.

    Raises: Refused.
    """
    found = [
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind)
        and kind.__module__ == module.__name__
        and issubclass(kind, Options)
        and base in (parent.__name__ for parent in kind.__mro__[1:])
    ]
    if len(found) != 1:
        why = f"{path}: {len(found)} classes derive from {base}, one is needed"
        raise Refused(Mistake(given, why, f"class NAME({base}) in {path}"))
    return found[0]
