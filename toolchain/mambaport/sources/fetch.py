"""Fetching a pinned file: from the store, else from a mirror folder, else from the package index."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pypi_simple
import requests
from packaging.utils import canonicalize_name
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from mambaport import __version__
from mambaport.digests import file_sha256
from mambaport.errors import FetchError
from mambaport.pins import Pin
from mambaport.pip_settings import pip_settings
from mambaport.report import Report, size_text
from mambaport.sources.index import IndexSettings
from mambaport.store import Store

RETRIES = 3
# The exceptions that an invalid answer causes: no JSON, or JSON that does not follow the API.
NOT_AN_ANSWER = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class Fetcher:
    """Fetches pinned files. Each file that it returns has the pinned sha256.

    Args:
        store: where files are kept.
        index: the index or mirror folder to fetch from.
        offline: use the store only.
    """

    def __init__(self, store: Store, index: IndexSettings, report: Report, *, offline: bool = False) -> None:
        self.store = store
        self.index = index
        self.report = report
        self.offline = offline

    def fetch(self, pin: Pin) -> Path:
        """The file's path in the store.

        Raises:
            FetchError: the file cannot be fetched, or is not the pinned one.
        """
        stored = self.stored(pin)
        if stored is not None:
            return stored
        if self.offline:
            raise FetchError(
                f"{pin.filename} is not in the store",
                found=f"nothing under {self.store.path('archives', pin.sha256)}",
                expected=f"the file with sha256 {pin.sha256}, because of --offline",
                hint="run the command once without --offline, or `mambaport fetch` on a machine with network "
                "and copy its store",
            )
        entry = self.store.make("archives", pin.sha256, lambda folder: self._bring(pin, folder))
        return entry / pin.filename

    def pip_options(self) -> list[str]:
        """The options that make pip use this fetcher's mirror folder, or no index when offline."""
        if self.index.mirror is not None and not self.offline:
            return ["--no-index", "--find-links", str(self.index.mirror)]
        return ["--no-index"] if self.offline else []

    def pip_settings(self, settings: Mapping[str, str]) -> dict[str, str]:
        """pip's ``settings`` with this fetcher's index; when offline, only the local folders among them."""
        if self.offline:
            links = [word for word in settings.get("find-links", "").split() if "://" not in word]
            return {"find-links": " ".join(links)} if links else {}
        return {**settings, **({"index-url": self.index.url} if self.index.url else {})}

    def stored(self, pin: Pin) -> Path | None:
        """The file's path if the store has the file undamaged, else None."""
        entry = self.store.get("archives", pin.sha256)
        if entry is None:
            return None
        path = entry / pin.filename
        if path.is_file() and file_sha256(path) == pin.sha256:
            return path
        self.report.warn(f"{pin.filename} in the store is damaged; it is fetched again")
        self.store.discard("archives", pin.sha256)
        return None

    def _bring(self, pin: Pin, folder: Path) -> None:
        path = folder / pin.filename
        started = time.monotonic()
        if self.index.mirror is not None:
            origin = f"mirror {self.index.mirror}"
            self._copy_from_mirror(self.index.mirror, pin, path)
        else:
            origin = "package index"
            download(self.index, pin.project, pin.filename, path, self.report)
        check(pin, path, origin)
        self.report.line(
            "fetch",
            f"{pin.filename}  {size_text(pin.size)}",
            f"{time.monotonic() - started:.1f} s, sha256 ok",
        )

    @staticmethod
    def _copy_from_mirror(mirror: Path, pin: Pin, path: Path) -> None:
        source = mirror / pin.filename
        if not source.is_file():
            raise FetchError(
                f"The mirror has no {pin.filename}",
                found=f"no file {source}",
                expected=f"{pin.filename} with sha256 {pin.sha256}",
                hint="put the file there, or drop --mirror / MAMBAPORT_MIRROR to use the package index",
            )
        shutil.copyfile(source, path)


def check(pin: Pin, path: Path, origin: str) -> None:
    """Compares a file with its pin.

    Raises:
        FetchError: the file is truncated, or is another file.
    """
    size = path.stat().st_size
    digest = file_sha256(path)
    if digest == pin.sha256:
        return
    if size < pin.size:
        raise FetchError(
            f"{pin.filename} is truncated",
            found=f"{size} bytes from the {origin}",
            expected=f"{pin.size} bytes with sha256 {pin.sha256}",
            hint="run the command again; if it stays short, the mirror or a proxy truncates it",
        )
    raise FetchError(
        f"{pin.filename} is not the pinned file",
        found=f"sha256 {digest} ({size} bytes) from the {origin}",
        expected=f"sha256 {pin.sha256} ({pin.size} bytes)",
        hint="do not use that file: a server or proxy changed or replaced it. Try another index "
        "(PIP_INDEX_URL) or a mirror folder with the right file (--mirror DIR)",
    )


def download(
    index: IndexSettings,
    project: str,
    filename: str,
    path: Path,
    report: Report,
) -> None:
    """Downloads one file of a project, by name, from the configured index.

    Raises:
        FetchError: the index cannot be reached, or does not have the file.
    """
    with client(index) as simple:
        package = find_file(simple, project, filename)
        try:
            with report.download(filename, package.size) as advance:
                simple.download_package(
                    package, path, verify=False, progress=lambda _size: _Progress(advance), timeout=60
                )
        except requests.exceptions.RequestException as fault:
            raise unreachable(fault, f"downloading {filename}") from None


def client(index: IndexSettings) -> pypi_simple.PyPISimple:
    """A client of the configured index, with retries, and with pip's proxy and certificates."""
    session = requests.Session()
    session.headers["User-Agent"] = f"mambaport/{__version__}"
    settings = pip_settings(sys.executable)
    if certificates := settings.get("cert"):
        session.verify = certificates
    if proxy := settings.get("proxy"):
        session.proxies = {"http": proxy, "https": proxy}
    retry = Retry(total=RETRIES, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    if url := index.url or settings.get("index-url"):
        return pypi_simple.PyPISimple(endpoint=url, session=session)
    return pypi_simple.PyPISimple(session=session)


def find_file(simple: pypi_simple.PyPISimple, project: str, filename: str) -> pypi_simple.DistributionPackage:
    """A file of a project as the index lists it.

    Raises:
        FetchError: the index cannot be reached, or does not have the file.
    """
    return _find(simple, project, lambda item: item.filename == filename, filename)


def _find(
    simple: pypi_simple.PyPISimple,
    project: str,
    wanted: Callable[[pypi_simple.DistributionPackage], bool],
    name: str,
) -> pypi_simple.DistributionPackage:
    try:
        page = simple.get_project_page(canonicalize_name(project), timeout=60)
    except pypi_simple.NoSuchProjectError:
        raise FetchError(
            f"The package index has no project {project}",
            hint="check PIP_INDEX_URL / --index-url; a private index must carry or proxy this project",
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
    for item in page.packages:
        if wanted(item):
            return item
    raise FetchError(
        f"The package index has no {name}",
        found=f"{len(page.packages)} other files of {project}",
        hint="use an index that carries it, or a mirror folder (--mirror DIR)",
    )


def unreachable(fault: Exception, doing: str) -> FetchError:
    """The error for an index that does not answer."""
    return FetchError(
        f"The package index cannot be reached ({doing})",
        found=f"{type(fault).__name__}: {fault}",
        hint="check the network, the proxy variables and the index (PIP_INDEX_URL or --index-url); "
        "or give the files in a folder with --mirror DIR; or, once they are in the store, use --offline",
    )


class _Progress:
    """pypi-simple's progress protocol over a plain function."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, count: int) -> None:
        self._advance(count)
