"""Files from servers: never longer than expected, resumed where the server can."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import requests

from mambaport.errors import FetchError
from mambaport.report import Report
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


def save(session: Session, url: str, filename: str, path: Path, size: int, report: Report) -> None:
    """Downloads ``url`` into the file ``path``.

    A download that breaks off goes on where it was, where the server can; else it begins again.

    Raises:
        FetchError: the server cannot be reached, is too slow, or sends more than ``size`` bytes.
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
    announced = re.fullmatch(r"[0-9]{1,18}", answer.headers.get("Content-Length", ""))
    length = out.tell() + int(announced[0]) if announced else 0
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
    match = re.match(r"bytes ([0-9]{1,18})-", answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _strong_tag(answer: requests.Response) -> str | None:
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else None


@contextmanager
def asking(session: Session, project: str) -> Iterator[None]:
    """Asks for a page: with a deadline, and with FetchError for what goes wrong."""
    with answers(project), session.within(2 * PATIENCE):
        yield


@contextmanager
def answers(project: str) -> Iterator[None]:
    """Turns what libraries raise for servers and pages into FetchError."""
    import pypi_simple  # noqa: PLC0415 - slow to import, and most runs ask no index

    try:
        yield
    except pypi_simple.NoSuchProjectError:
        raise
    except TooSlow:
        raise unreachable(
            TimeoutError(f"no whole answer in {2 * PATIENCE:.0f} s"), f"asking for {project}"
        ) from None
    except (requests.exceptions.RequestException, pypi_simple.UnsupportedContentTypeError) as fault:
        raise unreachable(fault, f"asking for {project}") from None
    except (pypi_simple.UnsupportedRepoVersionError, *NOT_AN_ANSWER) as fault:
        raise FetchError(
            f"The package index gives an answer that mambaport does not understand (asking for {project})",
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
