"""Downloads of known files: on request only, checked while they come, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPRedirectHandler,
    Request,
    build_opener,
    getproxies,
    proxy_bypass,
)

from normbench import __version__
from normbench.data._known import Known
from normbench.errors import FileRefused, MachineError, shown
from normbench.runtime import storage
from normbench.runtime.lock import Lock

PATIENCE_S = 30  # without a single byte
PIECE = 1 << 16
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Remote:
    """A known file that can be downloaded: where it belongs, and where it comes from."""

    file: Known
    folder: Path
    url: str

    @property
    def path(self) -> Path:
        """Where the file belongs."""
        return self.folder / self.file.name

    @property
    def here(self) -> bool:
        """Whether the file is there and is the right one, by its digest."""
        with contextlib.suppress(OSError):
            if self.path.is_file() and self.path.stat().st_size == self.file.size:
                with self.path.open("rb") as stream:
                    return hashlib.file_digest(stream, "sha256").hexdigest() == self.file.sha256
        return False

    def fetch(self, tell: Callable[[int], None] = lambda count: None) -> None:
        """Download the file in place of whatever is there; `tell` hears the bytes so far.

        Nothing but the right bytes ever has the file's name, and no other file stays behind.

        Raises: MachineError if it cannot be had or written; FileRefused if another file came, or
            if a symbolic link is in its place; InUse if another process downloads it.
        """
        with self._answer() as answer:
            storage.make_directory(self.folder)
            with Lock(self.folder):
                for stale in self.folder.glob(f"{self.file.name}.tmp-*"):
                    storage.remove(stale)
                storage.write_pieces(self.path, self._pieces(answer, tell), self.file.size)

    @contextlib.contextmanager
    def _answer(self) -> Iterator[IO[bytes]]:
        _check_address(self.url)
        request = Request(self.url, headers={"User-Agent": f"normbench/{__version__}"})
        try:
            with build_opener(_Redirects).open(request, timeout=PATIENCE_S) as answer:
                length = answer.headers.get("Content-Length")
                if length not in (None, str(self.file.size)):
                    raise self._another(f"has {shown(length)} bytes instead of {self.file.size:,}")
                yield answer
        except (HTTPException, OSError) as error:
            if isinstance(error, HTTPError):
                error.close()  # it is an answer, too
            raise self._broken(error) from error

    def _pieces(self, answer: IO[bytes], tell: Callable[[int], None]) -> Iterator[bytes]:
        """The bytes of the answer; ends without an error only if they are the right ones."""
        digest, count = hashlib.sha256(), 0
        while piece := self._piece(answer):
            count += len(piece)
            if count > self.file.size:
                raise self._another(f"has more than {self.file.size:,} bytes")
            digest.update(piece)
            yield piece
            tell(count)
        if count < self.file.size:
            raise self._broken(
                EOFError(f"it broke off after {count:,} of {self.file.size:,} bytes")
            )
        if digest.hexdigest() != self.file.sha256:
            found, right = digest.hexdigest()[:8], self.file.sha256[:8]
            raise self._another(f"has SHA-256 {found}… instead of {right}…")

    def _piece(self, answer: IO[bytes]) -> bytes:
        # An error of the network must not pass for one of the disk, which writing would make of it.
        try:
            return answer.read(PIECE)
        except (HTTPException, OSError) as error:
            raise self._broken(error) from error

    def _another(self, why: str) -> FileRefused:
        fix = "the same command later    (nothing was kept)"
        return FileRefused(self.file.name, f"what {shown(self.url)} gives {why}", fix)

    def _broken(self, error: BaseException) -> MachineError:
        reason = getattr(error, "reason", error)
        said = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        if isinstance(error, HTTPError):
            said = f"the answer is {error.code} {said}"
        why = f"cannot be had from {shown(self.url)}{_by_proxy(self.url)}: {shown(said)}"
        fix = f"the same command with a network, or a copy of it in {shown(self.folder)}"
        return MachineError(self.file.name, why, fix)


def _check_address(url: str) -> None:
    """Let nobody between here and there choose what is read, nor a local file be sent.

    Raises: MachineError.
    """
    place = urlsplit(url)
    if place.scheme != "https" and not (place.scheme == "http" and place.hostname in LOOPBACK):
        why = "is neither https nor on this machine"
        raise MachineError(url, why, "the same command later    (nothing was kept)")


def _by_proxy(url: str) -> str:
    """Say through which proxy an address is asked: it may be the one that refuses."""
    place = urlsplit(url)
    proxy = getproxies().get(place.scheme)
    if not proxy or proxy_bypass(place.netloc):
        return ""
    # Without a user and password that may stand in it.
    return f" by the proxy {shown(urlsplit(proxy).netloc.rpartition('@')[2] or proxy)}"


class _Redirects(HTTPRedirectHandler):
    """Follows redirections, but to no other kind of address."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """Return the request for the new address."""
        try:
            _check_address(newurl)
        except MachineError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)
