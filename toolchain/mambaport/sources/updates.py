"""Whether there is a newer mambaport, or a newer revision of the patch sets, than this one."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from mambaport.sources.client import Client


def newest_release(client: Client, project: str) -> Version | None:
    """The newest release of a project that is no pre-release; None where the index has only others.

    Raises:
        FetchError: the index cannot be reached, or does not know the project.
    """
    found = [version_of(item.filename) for item in client.files(project)]
    return max((version for version in found if version and not version.is_prerelease), default=None)


def newer_label(version: str, filenames: Iterable[str]) -> str | None:
    """The newest version of wheels of the same release and the same kind of local label; None where none is
    newer.

    Args:
        version: the version that this mambaport builds, such as ``2.2.4+rpi.cpu.1``
    """
    here = Version(version)
    found = [other for name in filenames if (other := version_of(name)) and _same_kind(here, other)]
    newest = max(found, default=here)
    return str(newest) if newest > here else None


def version_of(filename: str) -> Version | None:
    """The version in the name of an sdist or a wheel; None for another name."""
    try:
        if filename.endswith(".whl"):
            return parse_wheel_filename(filename)[1]
        return parse_sdist_filename(filename)[1]
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None


def _same_kind(one: Version, other: Version) -> bool:
    """Whether two versions differ in nothing but the numbers of their local labels."""
    kinds = [[part for part in (item.local or "").split(".") if not part.isdigit()] for item in (one, other)]
    return one.public == other.public and kinds[0] == kinds[1]
