"""Sdists that are not pinned yet: the list of a project's releases, and the download of one release."""

from __future__ import annotations

import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidSdistFilename, canonicalize_name, parse_sdist_filename
from packaging.version import InvalidVersion, Version

from mambaport.digests import file_sha256
from mambaport.errors import FetchError, UsageError
from mambaport.sources.archives import MAX_SDIST_BYTES
from mambaport.sources.client import download, make_client
from mambaport.sources.fetch import Fetcher

LATEST = "latest"


@dataclass(frozen=True)
class Sdist:
    """One sdist of a project, downloaded."""

    project: str
    version: str
    path: Path
    sha256: str

    @property
    def epoch(self) -> int:
        """The time of upstream's release, in seconds since 1970: that of the newest file of the archive.

        Raises:
            FetchError: the archive cannot be read.
        """
        try:
            with tarfile.open(self.path) as archive:
                return max(int(member.mtime) for member in archive)
        except (tarfile.TarError, OSError, ValueError) as fault:
            raise FetchError(
                f"{self.path.name} cannot be read", found=str(fault), hint="fetch it again"
            ) from None


def known_sdists(fetcher: Fetcher, project: str) -> dict[Version, str]:
    """Version -> file name, of every sdist of a project that the index or the mirror has; oldest first.

    Raises:
        UsageError: the fetcher is offline.
        FetchError: the index cannot be reached, or has no such project.
    """
    if fetcher.offline:
        raise UsageError("Releases that are not pinned are not in the store", hint="drop --offline")
    if fetcher.index.mirror is not None:
        names = [path.name for path in fetcher.index.mirror.iterdir()]
    else:
        names = [item.filename for item in make_client(fetcher.index).files(project)]
    found: dict[Version, str] = {}
    for name in names:
        try:
            owner, version = parse_sdist_filename(name)
        except InvalidSdistFilename:
            continue
        if owner == canonicalize_name(project):
            found[version] = name
    return dict(sorted(found.items()))


def bring_sdist(fetcher: Fetcher, project: str, wanted: str, folder: Path) -> Sdist:
    """Downloads the sdist of a version, or of the newest release for ``latest``, into ``folder``.

    Raises:
        UsageError: ``wanted`` is not a version.
        FetchError: there is no such release; the message names those that exist.
    """
    known = known_sdists(fetcher, project)
    version = _choose(known, project, wanted)
    name = known[version]
    path = folder / name
    if fetcher.index.mirror is not None:
        shutil.copyfile(fetcher.index.mirror / name, path)
    else:
        download(fetcher.index, project, name, path, MAX_SDIST_BYTES, fetcher.report)
    digest = file_sha256(path)
    fetcher.report.line("fetch", name, f"as the index has it; sha256 {digest[:16]}…")
    return Sdist(project, str(version), path, digest)


def _choose(known: dict[Version, str], project: str, wanted: str) -> Version:
    final = [version for version in known if not version.is_prerelease] or list(known)
    if wanted == LATEST and final:
        return final[-1]
    try:
        version = Version(wanted) if wanted != LATEST else None
    except InvalidVersion:
        raise UsageError(
            f"{wanted} is not a version", hint=f"name a version such as 2.3.0, or {LATEST}"
        ) from None
    if version is not None and version in known:
        return version
    similar = [str(item) for item in known if version is not None and item.release == version.release]
    raise FetchError(
        f"There is no sdist of {project} {wanted}",
        found=f"releases: {', '.join(map(str, known)) or 'none'}",
        hint=f"{' and '.join(similar)} exists" if similar else "take one of these",
    )
