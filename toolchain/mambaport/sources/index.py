"""The choice of the package index: mambaport's options first, then pip's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mambaport.errors import UsageError
from mambaport.redaction import keep_secret
from mambaport.settings import read_settings


@dataclass(frozen=True)
class IndexSettings:
    """The package index, or a mirror folder in its place."""

    url: str | None
    """None: the index that pip is configured for, else the public index."""
    mirror: Path | None
    """A folder of archives, used in place of the index."""


def index_settings(url: str | None, mirror: Path | None) -> IndexSettings:
    """The options resolved against the environment.

    Raises:
        UsageError: the mirror is not a folder.
    """
    settings = read_settings()
    mirror = mirror or settings.mirror
    if mirror is not None and not mirror.is_dir():
        raise UsageError(
            "The mirror is not a folder",
            found=str(mirror),
            expected="a folder that holds the archives under their own names",
            hint="check --mirror / MAMBAPORT_MIRROR",
        )
    if mirror is not None:
        return IndexSettings(url, mirror.resolve())
    url = url or settings.index_url
    keep_secret(url or "")
    return IndexSettings(url, None)
