"""Files from the package index: found by name, never longer than expected, resumed where the server can."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pypi_simple
import requests
from packaging.utils import canonicalize_name

from mambaport import __version__
from mambaport.errors import FetchError
from mambaport.pip_settings import pip_settings
from mambaport.report import Report
from mambaport.sources.index import IndexSettings
from mambaport.sources.session import CHUNK, RETRIES, TIMEOUT, Session, TooSlow

LEAST_SPEED = 10_000
"""Bytes per second, on average, below which a download is given up."""
PATIENCE = 60.0
"""Seconds that a download may take whatever its size; twice that for a page of the index."""
# The exceptions that an invalid answer causes: no JSON, or JSON that does not follow the API.
NOT_AN_ANSWER = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
OTHER_FILE = (
    "do not use that file: a server or proxy changed or replaced it. Try another index "
    "(PIP_INDEX_URL) or a mirror folder with the right file (--mirror DIR)"
)


@contextmanager
def client(index: IndexSettings) -> Iterator[tuple[pypi_simple.PyPISimple, Session]]:
    """A client of the configured index and its session, with pip's proxy and certificates."""
    session = Session()
    session.headers["User-Agent"] = f"mambaport/{__version__}"
    settings = pip_settings(sys.executable)
    if certificates := settings.get("cert"):
        session.verify = certificates
    if proxy := settings.get("proxy"):
        session.proxies = {"http": proxy, "https": proxy}
    url = index.url or settings.get("index-url")
    options = {"endpoint": url} if url else {}
    with pypi_simple.PyPISimple(session=session, **options) as simple:
        yield simple, session


def download(
    index: IndexSettings, project: str, filename: str, path: Path, size: int, report: Report
) -> None:
    """Downloads one file of a project, by name, from the configured index.

    Args:
        size: the most bytes that are written.

    Raises:
        FetchError: the index cannot be reached, does not have the file, or sends more than ``size`` bytes.
    """
    with client(index) as (simple, session):
        package = find_file(simple, session, project, filename)
        save(session, package.url, filename, path, size, report)


def save(session: Session, url: str, filename: str, path: Path, size: int, report: Report) -> None:
    """Downloads ``url`` into the file ``path``.

    A download that breaks off goes on where it was, where the server can; else it begins again.

    Raises:
        FetchError: as for :func:`download`.
    """
    seconds = PATIENCE + size / LEAST_SPEED
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out, report.download(filename, size) as advance:
        try:
            with session.within(seconds):
                _receive(session, url, filename, out, size, advance)
        except TooSlow:
            raise FetchError(
                f"{filename} comes too slowly",
                found=f"{out.tell()} bytes in {seconds:.0f} s",
                expected=f"up to {size} bytes, {LEAST_SPEED // 1000} kB a second or more",
                hint="run the command again later, or with another index (--index-url URL); or bring the "
                "file into a folder by other means, and name that folder with --mirror DIR",
            ) from None
        except requests.exceptions.RequestException as fault:
            raise unreachable(fault, f"downloading {filename}") from None


def _receive(
    session: Session, url: str, filename: str, out: IO[bytes], size: int, advance: Callable[[int], None]
) -> None:
    failures, tag = 0, None
    while True:
        start = out.tell()
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-", **({"If-Range": tag} if tag else {})}
        try:
            with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
                resumed = answer.status_code == 206 and _begins(answer) == start
                if start and not resumed:
                    advance(-start)
                    out.seek(0)
                    out.truncate()
                if answer.status_code != 416:  # a range that the server does not have
                    answer.raise_for_status()
                    tag = _strong_tag(answer)
                    _copy(answer, filename, out, size, advance)
                    return
        except requests.exceptions.HTTPError:
            raise
        except (
            requests.exceptions.ChunkedEncodingError,
            requests.exceptions.ConnectionError,
            requests.exceptions.Timeout,
        ):
            failures = 0 if out.tell() - start >= CHUNK else failures
            if failures == RETRIES or session.late.is_set():
                raise
        session.pause(failures)
        failures += 1


def _copy(
    answer: requests.Response, filename: str, out: IO[bytes], size: int, advance: Callable[[int], None]
) -> None:
    announced = answer.headers.get("Content-Length", "")
    length = out.tell() + int(announced) if announced.isdecimal() else 0
    if length <= size:
        for chunk in answer.iter_content(CHUNK):
            length = max(length, out.tell() + len(chunk))
            if length > size:
                break
            out.write(chunk)
            advance(len(chunk))
    if length > size:
        raise FetchError(
            f"{filename} is not the pinned file: it is longer",
            found=f"{length} bytes or more from the package index",
            expected=f"{size} bytes",
            hint=OTHER_FILE,
        )


def _begins(answer: requests.Response) -> int | None:
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _strong_tag(answer: requests.Response) -> str | None:
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else None


def find_file(
    simple: pypi_simple.PyPISimple, session: Session, project: str, filename: str
) -> pypi_simple.DistributionPackage:
    """A file of a project as the index lists it.

    Raises:
        FetchError: the index cannot be reached, or does not have the file.
    """
    page = project_page(simple, session, project)
    for item in page.packages:
        if item.filename == filename:
            return item
    raise FetchError(
        f"The package index has no {filename}",
        found=f"{len(page.packages)} other files of {project}",
        hint="use an index that carries it, or a mirror folder (--mirror DIR)",
    )


def project_page(simple: pypi_simple.PyPISimple, session: Session, project: str) -> pypi_simple.ProjectPage:
    """The files that the index lists for a project.

    Raises:
        FetchError: the index cannot be reached, gives no valid answer, or has no such project.
    """
    doing = f"asking for {project}"
    try:
        with session.within(2 * PATIENCE):
            return simple.get_project_page(canonicalize_name(project), timeout=TIMEOUT)
    except pypi_simple.NoSuchProjectError:
        raise FetchError(
            f"The package index has no project {project}",
            hint="check PIP_INDEX_URL / --index-url; a private index must carry or proxy this project",
        ) from None
    except TooSlow:
        raise unreachable(TimeoutError(f"no whole answer in {2 * PATIENCE:.0f} s"), doing) from None
    except (requests.exceptions.RequestException, pypi_simple.UnsupportedContentTypeError) as fault:
        raise unreachable(fault, doing) from None
    except (pypi_simple.UnsupportedRepoVersionError, *NOT_AN_ANSWER) as fault:
        raise FetchError(
            f"The package index gives an answer that mambaport does not understand ({doing})",
            found=f"{type(fault).__name__}: {fault}",
            expected="the simple repository API, version 1",
            hint="check the index (PIP_INDEX_URL or --index-url): a page of another service may stand there; "
            "or give the files in a folder with --mirror DIR",
        ) from None


def unreachable(fault: Exception, doing: str) -> FetchError:
    """The error for an index that does not answer."""
    return FetchError(
        f"The package index cannot be reached ({doing})",
        found=f"{type(fault).__name__}: {fault}",
        hint="check the network, the proxy variables and the index (PIP_INDEX_URL or --index-url); "
        "or give the files in a folder with --mirror DIR; or, once they are in the store, use --offline",
    )
