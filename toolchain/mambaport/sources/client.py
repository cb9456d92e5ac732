"""The client of the places that pip's settings name: package indexes, folders, pages of links.

Of pip's settings, ``index-url``, ``extra-index-url``, ``find-links`` and ``no-index`` say where files are;
``proxy``, ``cert``, ``client-cert`` and ``trusted-host`` say how servers are reached. Files are pinned by
digest, so the order of the places decides no byte.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.utils import canonicalize_name

from mambaport import __version__
from mambaport.errors import FetchError, UsageError
from mambaport.pip_settings import pip_settings
from mambaport.report import Report
from mambaport.settings import is_true
from mambaport.sources.download import answers, asking, save
from mambaport.sources.index import IndexSettings
from mambaport.sources.session import TIMEOUT, Session

if TYPE_CHECKING:
    import pypi_simple


@dataclass(frozen=True)
class Listed:
    """A file that a place has."""

    filename: str
    url: str
    """``file:`` for a file of this machine."""
    package: pypi_simple.DistributionPackage | None = None
    """The file as a server lists it."""

    @property
    def path(self) -> Path | None:
        """The file's path; None for a file of a server."""
        return _path(self.url) if self.url.startswith("file:") else None


Place = Callable[[str], "list[Listed] | None"]
"""Project -> the files of a place; None where the place does not know the project."""


class Client:
    """The places of a configuration, searched in order.

    Attributes:
        endpoints: the URLs of the package indexes, the main one first; None for the public index
    """

    def __init__(self, index: IndexSettings, settings: Mapping[str, str]) -> None:
        self._proxy = settings.get("proxy")
        self._trusted = frozenset(settings.get("trusted-host", "").lower().split())
        self._certificates = _file(settings, "cert")
        self._certificate = _file(settings, "client-cert")
        main = index.url or settings.get("index-url")
        self.endpoints = [main or None, *settings.get("extra-index-url", "").split()]
        if is_true(settings.get("no-index", "")):  # an index that is named to mambaport itself counts
            self.endpoints = [index.url] if index.url else []
        links = settings.get("find-links", "").split()
        self._places: list[Place] = [*map(self._links, links), *map(self._index, self.endpoints)]

    def session(self) -> Session:
        """A session that reaches servers as pip's settings say. Each place has a session of its own: a place
        that is too slow ends only that session."""
        session = Session(self._trusted, self._certificates)
        session.headers["User-Agent"] = f"mambaport/{__version__}"
        if self._certificate is not None:
            session.cert = self._certificate
        if self._proxy:
            session.proxies = {"http": self._proxy, "https": self._proxy}
        return session

    def find(self, project: str, filename: str) -> Listed:
        """A file of a project, in the first place that lists the file.

        Raises:
            FetchError: no place has the file, and where a place cannot be reached, that place.
        """
        listed = []
        known = False
        for files in self._files(project):
            known = True
            for item in files:
                if item.filename == filename:
                    return item
            listed += files
        if not known:
            raise _no_project(project)
        raise FetchError(
            f"The package index has no {filename}",
            found=f"{len(listed)} other files of {project}",
            hint="use an index that carries it, or a mirror folder (--mirror DIR)",
        )

    def files(self, project: str) -> list[Listed]:
        """The files of every place, without those that upstream has withdrawn.

        Raises:
            FetchError: a place cannot be reached, or no place has the project.
        """
        found = list(self._files(project))
        if not found:
            raise _no_project(project)
        return [
            item for files in found for item in files if item.package is None or not item.package.is_yanked
        ]

    def download(self, item: Listed, path: Path, size: int, report: Report) -> None:
        """Writes a file to ``path``.

        Args:
            size: the most bytes that a server may send

        Raises:
            FetchError: the server cannot be reached, or sends more than ``size`` bytes.
        """
        if item.path is not None:
            shutil.copyfile(item.path, path)
            return
        with self.session() as session:
            save(session, item.url, item.filename, path, size, report)

    def _files(self, project: str) -> Iterator[list[Listed]]:
        """The files of each place that knows the project. After the last place, raises the first fault."""
        failed = None
        for place in self._places:
            try:
                files = place(project)
            except FetchError as fault:
                failed = failed or fault
                continue
            if files is not None:
                yield files
        if failed is not None:
            raise failed

    def _index(self, url: str | None) -> Place:
        if url is not None and url.startswith("file:"):
            folder = _path(url)
            return lambda project: _local_index(folder / canonicalize_name(project), project)
        options = {} if url is None else {"endpoint": url}

        def files(project: str) -> list[Listed] | None:
            import pypi_simple  # noqa: PLC0415 - slow to import, and most runs ask no index

            try:
                with (
                    self.session() as session,
                    asking(session, project),
                    pypi_simple.PyPISimple(session=session, **options) as simple,
                ):
                    page = simple.get_project_page(canonicalize_name(project), timeout=TIMEOUT)
            except pypi_simple.NoSuchProjectError:
                return None
            return _listed(page)

        return files

    def _links(self, word: str) -> Place:
        """A place of ``find-links``: a folder, a file, or a page of links, by path or URL."""
        if urlsplit(word).scheme in ("http", "https"):
            return lambda project: self._page(word, project)
        path = (
            Path(url2pathname(urlsplit(word).path)) if word.startswith("file:") else Path(word).expanduser()
        )
        return lambda project: _local(path.absolute(), project)

    def _page(self, url: str, project: str) -> list[Listed] | None:
        import pypi_simple  # noqa: PLC0415

        with self.session() as session, asking(session, project):
            answer = session.get(url, timeout=TIMEOUT)
            answer.raise_for_status()
            page = pypi_simple.ProjectPage.from_response(answer, project)
        return _of(project, _listed(page))


def _path(url: str) -> Path:
    """The path of a ``file:`` URL."""
    return Path(url2pathname(urlsplit(url).path))


def _local_index(folder: Path, project: str) -> list[Listed] | None:
    """The files of a project's folder in an index that is a folder of this machine."""
    page = folder / "index.html"
    return _local(page if page.is_file() else folder, project)


def _local(path: Path, project: str) -> list[Listed] | None:
    """A project's files in a folder or among the links of a page, or the file itself; None without one."""
    if path.is_dir():
        found = [Listed(item.name, item.as_uri()) for item in sorted(path.iterdir())]
    elif path.suffix in (".html", ".htm") and path.is_file():
        import pypi_simple  # noqa: PLC0415

        with answers(project):
            page = pypi_simple.ProjectPage.from_html(project, path.read_bytes(), base_url=path.as_uri())
        found = _listed(page)
    else:
        found = [Listed(path.name, path.as_uri())] if path.is_file() else []
    return _of(project, found)


def _listed(page: pypi_simple.ProjectPage) -> list[Listed]:
    return [Listed(item.filename, item.url, item) for item in page.packages]


def _of(project: str, files: list[Listed]) -> list[Listed] | None:
    """The files of one project, where a place has those of all projects."""
    start = f"{canonicalize_name(project)}-"
    return [item for item in files if canonicalize_name(item.filename).startswith(start)] or None


def make_client(index: IndexSettings) -> Client:
    """A client of the places that mambaport's options and pip's settings name.

    Raises:
        UsageError: pip's configuration cannot be read, or names a certificate that is not there.
    """
    return Client(index, pip_settings(sys.executable))


def download(
    index: IndexSettings, project: str, filename: str, path: Path, size: int, report: Report
) -> None:
    """Downloads one file of a project, by name.

    Args:
        size: the most bytes that are written.

    Raises:
        FetchError: a place cannot be reached, or no place has the file, or a server sends more than ``size``
            bytes.
    """
    client = make_client(index)
    client.download(client.find(project, filename), path, size, report)


def _file(settings: Mapping[str, str], name: str) -> str | None:
    text = settings.get(name)
    if text and not Path(text).expanduser().exists():
        raise UsageError(
            f"pip's setting {name} names no file",
            found=text,
            expected="a file of certificates, in PEM format",
            hint=f"correct or unset it: `python3 -m pip config debug`, PIP_{name.upper().replace('-', '_')}",
        )
    return str(Path(text).expanduser()) if text else None


def _no_project(project: str) -> FetchError:
    return FetchError(
        f"The package index has no project {project}",
        hint="check PIP_INDEX_URL / --index-url; a private index must carry or proxy this project",
    )
