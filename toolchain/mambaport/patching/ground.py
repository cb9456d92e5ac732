"""The ground for a new release: its pins, as ``source.toml``."""

from __future__ import annotations

from pathlib import Path

from mambaport.errors import UsageError
from mambaport.releases import release_folder

_TEXT = """\
epoch = {epoch}

[[archive]]
project = "{package}"
version = "{version}"
filename = "{filename}"
sha256 = "{sha256}"
size = {size}
strip = "{strip}"
exclude = ["PKG-INFO", "*.egg-info/*"]
"""


def lay_ground(package: str, version: str, archive: Path, sha256: str, epoch: int, strip: str) -> Path:
    """Writes a release's ``source.toml``. Returns its path.

    Args:
        epoch: upstream's release, in seconds since 1970.
        strip: the archive's top folder.

    Raises:
        UsageError: the release has one.
    """
    path = release_folder(package, version) / "source.toml"
    if path.exists():
        raise UsageError(
            f"The ground for {package} {version} is laid already",
            found=str(path),
            hint="`mambaport patches check` says how its patches stand; remove the folder to begin anew",
        )
    path.parent.mkdir(parents=True)
    text = _TEXT.format(
        epoch=epoch,
        package=package,
        version=version,
        filename=archive.name,
        sha256=sha256,
        size=archive.stat().st_size,
        strip=strip,
    )
    path.write_text(text, encoding="utf-8")
    return path
