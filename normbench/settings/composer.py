"""Composes with Hydra, on the packaged files and a user's own: the one file that calls its loader.

What Hydra raises while it composes becomes a refusal that names the word, or the file and its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from normbench.errors import Mistake, Refused
from normbench.parts import registry
from normbench.parts.options import copied, leaves, near
from normbench.runtime import storage
from normbench.settings import resolve
from normbench.settings.fields import default_part
from normbench.settings.userfiles import hidden, line_of, unreadable

ALL_OF_HYDRA = "normbench train --cfg hydra    (all of Hydra's settings)"
RESOLVER = re.compile(r"\$\{[^}]*:")  # such as ${oc.env:HOME}: reads other things than settings
PRESETS, HEAD = "experiment", "# @package _global_"  # the group of kept command lines
GRIDS = ("normbench", "basic")  # sweepers that try every combination; others choose


def loader(extra: str | None = None) -> ConfigLoaderImpl:
    """Return Hydra's config loader on the packaged configs, and on `extra`, a user's folder.

    Raises: Refused if it is no folder, or a file of it would never be looked at.
    """
    setup_globals()
    path = create_config_search_path(str(registry.configs()))
    if extra is not None:
        folder = Path(extra).expanduser()
        if not folder.is_dir():
            why = "is a file" if folder.exists() else "there is no such folder"
            raise Refused(Mistake(f"--config-dir={extra}", why, "--config-dir=DIR"))
        if mistake := hidden(folder):
            raise Refused(mistake)
        query = SearchPathQuery(provider="schema", path=None)
        path.prepend("command-line", f"file://{folder.absolute()}", query)
    return ConfigLoaderImpl(path)


def files_of(loader: ConfigLoaderImpl, group: str) -> list[str]:
    """List the names of the files in a group; the loader's own method copies all it has first."""
    return loader.repository.get_group_options(group, ObjectType.CONFIG)


def groups_of(loader: ConfigLoaderImpl) -> list[str]:
    """List the folders of files."""
    return loader.repository.get_group_options("", ObjectType.GROUP)


@dataclass(frozen=True)
class Composed:
    """What Hydra made of a choice of parts and of words of its own: the settings, and `hydra`."""

    tree: dict[str, Any]
    hydra: DictConfig

    @property
    def multirun(self) -> bool:
        """Tell whether the files or the command line ask for a sweep."""
        return bool(self.hydra.mode == RunMode.MULTIRUN)

    @property
    def sweeper(self) -> str:
        """Name the sweeper."""
        return str(self.hydra.runtime.choices["hydra/sweeper"])

    @property
    def launcher(self) -> str:
        """Name the launcher."""
        return str(self.hydra.runtime.choices["hydra/launcher"])

    @property
    def changes_folder(self) -> bool:
        """Tell whether a job works in a folder of its own."""
        return bool(self.hydra.job.chdir)

    @cached_property
    def params(self) -> dict[str, str]:
        """Give the lists of a sweep that a file keeps: `hydra.sweeper.params`."""
        found = OmegaConf.select(self.hydra, "sweeper.params")
        if not isinstance(found, DictConfig):  # what is no map is refused by the sweeper
            return {}
        return {str(key): str(value) for key, value in found.items()}


class Composer:
    """Composes one choice of parts after another, with the same words for Hydra."""

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self.loader = loader
        self.words: tuple[str, ...] = ()  # below `hydra.` or `hydra/`

    def compose(self, chosen: Sequence[str]) -> Composed:
        """Compose the parts that words such as `norm=gn` choose.

        Raises: Refused, naming the file and its line where a user's own file is wrong.
        """
        self._store_foreign(chosen)
        self._with_heads(chosen)
        with composing(chosen, self.folders):
            made = self._load([*chosen, *self.words])
            tree = OmegaConf.to_container(made, resolve=False)
        assert isinstance(tree, dict)
        tree.pop("hydra")
        return Composed({str(key): value for key, value in tree.items()}, made.hydra)

    def take(self, words: Sequence[str]) -> Iterator[Mistake]:
        """Keep those of some words that Hydra takes, and yield what is wrong with the others."""
        wrong = [each for word in words for each in self._not_chosen(word)]
        yield from wrong
        words = [word for word in words if word not in {each.subject for each in wrong}]
        if not words:
            return
        try:
            self._taken(words)
            self.words = tuple(words)
        except Exception:  # whatever it is, it is looked for in the single words
            for word in sorted(words, key=lambda word: "/" not in word.partition("=")[0]):
                try:
                    self._taken([*self.words, word])
                    self.words = (*self.words, word)
                except Exception as error:
                    yield Mistake(word, said(error), self._fix(word))

    def readable(self, words: Sequence[str]) -> None:
        """Look whether the user's own files are maps in YAML.

        Raises: Refused, naming the first that is not, and its line.
        """
        with composing(words, self.folders):
            if any(True for folder in self.folders for _ in unreadable(folder, words)):
                raise HydraException

    def place(self, key: str, words: Sequence[str]) -> str | None:
        """Find the file and the line of the user's that give a setting."""
        for group, _, name in (word.lstrip("+").partition("=") for word in words):
            within = key.removeprefix(f"{group}.").split(".")
            for path in (folder / group / f"{name}.yaml" for folder in self.folders):
                if path.is_file() and (line := line_of(path, within)):
                    return f"{path} line {line}"
        return None

    @property
    def folders(self) -> list[Path]:
        """List the user's folders of files."""
        sources = self.loader.config_search_path.get_path()
        paths = [each.path for each in sources if each.provider == "command-line"]
        return [Path(path.removeprefix("file://")) for path in paths if path]

    def _load(self, words: Sequence[str]) -> DictConfig:
        with catch_warnings():
            simplefilter("error", UserWarning)  # such as of a folder that is not there
            return self.loader.load_configuration("train", list(words), RunMode.RUN)

    def _taken(self, words: Sequence[str]) -> None:
        """Compose words of Hydra's, and read what references may hide: they are followed late."""
        made = Composed({}, self._load(words).hydra)
        _ = made.multirun, made.changes_folder, made.params

    def _not_chosen(self, word: str) -> Iterator[Mistake]:
        """Yield a mistake if a word sets what is chosen: `hydra.launcher=joblib`."""
        key, _, value = word.lstrip("+").partition("=")
        group = key.replace(".", "/", 1)
        names = files_of(self.loader, group) if group != key else []
        if names and not value.startswith("{"):
            fix = f"{group}={near(value, names) or names[0]}"
            yield Mistake(word, f"is chosen by {group}=NAME", fix)

    def _fix(self, word: str) -> str:
        """Find a setting of Hydra's that a wrong word may mean, and that works."""
        key, _, value = word.lstrip("+~").partition("=")
        hydra = self._load(self.words).hydra
        plain = dict(OmegaConf.to_container(hydra, resolve=False))  # type: ignore[arg-type]
        known = [f"hydra.{name}" for name, _ in leaves(plain) if "_." not in f"{name}."]
        meant = near(key, known)
        like = meant and near(key.rpartition(".")[2], [meant.rpartition(".")[2]])
        fixes = [f"{meant}={value}"] if like and meant != key else []
        if key.startswith("hydra.launcher."):
            place = key.rpartition(".")[0].removeprefix("hydra.")
            if place != "launcher" and isinstance(OmegaConf.select(hydra, place), DictConfig):
                fixes.append(f"+{key}={value}")
            plus = {key.split(".")[2]: "+"}  # such as ray's, whose functions have options
            names = files_of(self.loader, "hydra/launcher")
            fixes += [f"hydra/launcher={name} {plus.get(name, '')}{key}={value}" for name in names]
        for fix in fixes:
            try:
                self._taken([*self.words, *fix.split(" ", 1)])
                return fix
            except Exception:  # a suggestion has to work
                continue
        return ALL_OF_HYDRA

    def _with_heads(self, chosen: Sequence[str]) -> None:
        """Refuse a user's preset whose settings Hydra would put below `experiment`."""
        for group, _, name in (text.partition("=") for text in chosen):
            for path in (folder / group / f"{name}.yaml" for folder in self.folders):
                if group == PRESETS and path.is_file() and HEAD.encode() not in path.read_bytes():
                    self.readable([f"{group}={name}"])
                    why = f"the settings of {path} are not for the whole configuration"
                    fix = f"`{HEAD}` as the first line of {path}"
                    raise Refused(Mistake(f"{group}={name}", why, fix))

    def _store_foreign(self, chosen: Sequence[str]) -> None:
        """Let Hydra compose a part of another package from the fields of its class."""
        for text in chosen:
            group, _, name = text.partition("=")
            if group not in registry.KINDS or name in files_of(self.loader, group):
                continue
            if name in registry.names(group):
                node = default_part(group, name)
                ConfigStore.instance().store(name=name, node=node, group=group)


def resolved(tree: dict[str, Any]) -> dict[str, Any]:
    """Replace references to other settings by their values.

    Raises: Refused where a value refers to anything else.
    """
    texts = [(k, v) for k, v in leaves(tree) if isinstance(v, str) and "${" in v]
    for key, value in texts:
        why = "resolvers are not allowed in settings" if RESOLVER.search(value) else ""
        why = "is nested too deep" if storage.nesting(value) > storage.DEPTH else why
        if why:
            raise Refused(Mistake(f"{key}={value}", why, f"{key}=VALUE"))
    known = dict(leaves(tree))
    plain = [known.get(value[2:-1], value) for _, value in texts]
    if all("${" not in str(value) for value in plain):  # names of other settings, no more
        for (key, _), value in zip(texts, plain, strict=True):
            resolve.put(tree, key, copied(value))
        return tree
    try:
        values = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        key, value = texts[-1]
        why = str(error).splitlines()[0]
        raise Refused(Mistake(f"{key}={value}", why, f"{key}=VALUE")) from None
    return {str(key): value for key, value in values.items()}  # type: ignore[union-attr]


@contextmanager
def composing(words: Sequence[str], folders: Sequence[Path] = ()) -> Iterator[None]:
    """Let Hydra compose; raise Refused, with the file, where a user's own file is not readable.

    Args: words: the command line; folders: of the user's own files.
    """
    from yaml import YAMLError

    try:
        yield
    except RecursionError:
        why = "is nested too deep"
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, OSError) as error:
        why = said(error)
    except (AssertionError, AttributeError, TypeError) as error:
        why = f"a file is not as Hydra wants it: {said(error)}"
    else:
        return
    why = next((found for folder in folders for found in unreadable(folder, words)), why)
    subject = " ".join(words) or "train.yaml"
    raise Refused(Mistake(subject, why, "normbench train --cfg job    (without --config-dir)"))


def said(error: BaseException) -> str:
    """Say in one line what Hydra found wrong."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        texts += [" ".join(lines[: 1 + lines[0].startswith("Error in call")])] if lines else []
        cause = cause.__cause__
    if not texts:
        return type(error).__name__
    if texts[0].startswith("Could not override"):
        return "Hydra has no such setting"
    return texts[-1] if texts[0].startswith("Error merging") else texts[0]
