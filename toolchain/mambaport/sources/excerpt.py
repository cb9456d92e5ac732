"""Excerpts: some members of a wheel on the package index, read in ranges without fetching the whole wheel.

torch's CUDA wheels are 0.4 to 0.9 GB, and an extension needs 50 MB of headers from them. The digest of a
whole file cannot verify a part of it, so an excerpt has its own digest, of the members taken.
"""

from __future__ import annotations

import fnmatch
import io
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import requests

from mambaport.digests import tree_sha256
from mambaport.errors import FetchError
from mambaport.pins.cuda import Excerpt
from mambaport.report import Report
from mambaport.sources.archives import damaged, refused
from mambaport.sources.client import make_client
from mambaport.sources.download import (
    LEAST_SPEED,
    OTHER_FILE,
    PATIENCE,
    save,
    unreachable,
)
from mambaport.sources.fetch import Fetcher, check
from mambaport.sources.session import CHUNK, TIMEOUT, Session, TooSlow
from mambaport.wheels import reading

BLOCK = 4 << 20


def take(fetcher: Fetcher, excerpt: Excerpt, folder: Path, report: Report) -> None:
    """Writes an excerpt's members below ``folder``, which is empty or does not exist yet.

    Raises:
        FetchError: the members cannot be fetched, or are not the pinned ones.
    """
    with (
        report.working("fetch", f"{excerpt.filename}, {', '.join(excerpt.members)}"),
        reading(lambda fault: damaged(Path(excerpt.filename), fault)),
    ):
        try:
            with _opened(fetcher, excerpt, folder.parent) as stream, zipfile.ZipFile(stream) as archive:
                _extract(archive, excerpt, folder)
        except TooSlow:
            raise unreachable(TimeoutError("parts come too slowly"), f"reading {excerpt.filename}") from None
        except requests.exceptions.RequestException as fault:
            raise unreachable(fault, f"reading {excerpt.filename}") from None
    found = tree_sha256(folder)
    if found != excerpt.content_sha256:
        raise FetchError(
            f"The part of {excerpt.filename} is not the pinned one",
            found=f"sha256 {found} of {', '.join(excerpt.members)}",
            expected=f"sha256 {excerpt.content_sha256}",
            hint=OTHER_FILE,
        )


def extract_members(wheel: Path, members: tuple[str, ...], folder: Path) -> None:
    """Writes the members of a wheel file whose names match a pattern below ``folder``.

    Raises:
        FetchError: the wheel is damaged.
    """
    with reading(lambda fault: damaged(wheel, fault)), zipfile.ZipFile(wheel) as archive:
        _matching(archive, wheel.name, members, folder)


def _extract(archive: zipfile.ZipFile, excerpt: Excerpt, folder: Path) -> None:
    _matching(archive, excerpt.filename, excerpt.members, folder)


def _matching(archive: zipfile.ZipFile, name: str, members: tuple[str, ...], folder: Path) -> None:
    for item in sorted(archive.infolist(), key=lambda item: item.header_offset):
        if item.is_dir() or not any(fnmatch.fnmatchcase(item.filename, pattern) for pattern in members):
            continue
        path = PurePosixPath(item.filename)
        if path.is_absolute() or ".." in path.parts:
            raise refused(Path(name), f"a member named {item.filename!r}", "names inside the wheel's folder")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(item) as source, target.open("xb") as out:
            shutil.copyfileobj(source, out, 1 << 20)


@contextmanager
def _opened(fetcher: Fetcher, excerpt: Excerpt, scratch: Path) -> Iterator[IO[bytes]]:
    """The wheel as a seekable file: the one on the index, else a local copy."""
    stored = fetcher.stored(excerpt)
    if stored is not None or fetcher.offline or fetcher.index.mirror is not None:
        with (stored or fetcher.fetch(excerpt)).open("rb") as stream:
            yield stream
        return
    client = make_client(fetcher.index)
    found = client.find(excerpt.project, excerpt.filename)
    if found.path is not None:
        check(excerpt, found.path, f"folder {found.path.parent}")
        with found.path.open("rb") as stream:
            yield stream
        return
    with client.session() as session:
        try:
            ranged = RangedFile(session, found.url)
        except LookupError:
            whole = scratch / excerpt.filename
            save(session, found.url, excerpt.filename, whole, excerpt.size, fetcher.report)
            check(excerpt, whole, "package index")
            with whole.open("rb") as stream:
                yield stream
            whole.unlink()
            return
        yield io.BufferedReader(ranged, BLOCK)


class RangedFile(io.RawIOBase):
    """A file on an HTTP server, read in ranges.

    Raises:
        LookupError: the server does not serve ranges.
        requests.RequestException: the server cannot be reached.
    """

    def __init__(self, session: Session, url: str) -> None:
        self._session = session
        self._url = url
        self._position = 0
        answer, _ = self._get("bytes=0-0", 1)
        if answer.status_code != 206:
            raise LookupError(f"no ranges: status {answer.status_code}")
        size = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if not re.fullmatch(r"[0-9]{1,18}", size):
            raise LookupError(f"no size in Content-Range: {size!r}")
        self._size = int(size)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        last = min(self._position + len(buffer), self._size) - 1
        if last < self._position:
            return 0
        answer, data = self._get(f"bytes={self._position}-{last}", len(buffer))
        answer.raise_for_status()
        if answer.status_code != 206 or len(data) != last - self._position + 1:
            raise requests.exceptions.ConnectionError(f"{len(data)} bytes in place of a range")
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _get(self, what: str, length: int) -> tuple[requests.Response, bytes]:
        """The answer to a range, with up to ``length`` + 1 bytes of its body, of a range alone."""
        headers = {"Range": what, "Accept-Encoding": "identity"}
        with (
            self._session.within(PATIENCE + length / LEAST_SPEED),
            self._session.get(self._url, headers=headers, stream=True, timeout=TIMEOUT) as answer,
        ):
            body = bytearray()
            for chunk in answer.iter_content(CHUNK) if answer.status_code == 206 else ():
                body += chunk
                if len(body) > length:
                    break
            return answer, bytes(body)
