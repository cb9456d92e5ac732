"""Pristine trees: the source of one package, unpacked from one archive or several."""

from __future__ import annotations

import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory

from mambaport.digests import tree_files
from mambaport.errors import FetchError
from mambaport.releases import Archive, Source
from mambaport.sources.archives import unpack_sdist


def assemble(source: Source, archives: list[Path], destination: Path) -> None:
    """Unpacks ``archives``, in the order of ``source.archive``, as one tree.

    Raises:
        FetchError: an archive is damaged or refused, or two archives have the same file.
    """
    destination.mkdir(parents=True, exist_ok=True)
    for archive, path in zip(source.archive, archives, strict=True):
        with TemporaryDirectory(dir=destination.parent, prefix="unpack-") as folder:
            unpacked = Path(folder)
            unpack_sdist(path, unpacked)
            _take(archive, unpacked / archive.strip, destination)


def _take(archive: Archive, root: Path, destination: Path) -> None:
    taken = [name for name in tree_files(root) if _wanted(archive, name)] if root.is_dir() else []
    if not taken:
        raise FetchError(
            f"{archive.filename} has none of the files of the tree",
            found=f"nothing of {', '.join(archive.only) or 'any name'} under {archive.strip}/",
            expected="the files that source.toml asks for",
            hint="this is a bug in the pinned source (releases/*/source.toml); report it",
        )
    for name in taken:
        target = destination / name
        if target.exists():
            raise FetchError(
                f"Two archives have {name}", hint="narrow `only` or `exclude` of one of them in source.toml"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(root / name, target)


def _wanted(archive: Archive, name: str) -> bool:
    chosen = not archive.only or any(fnmatchcase(name, pattern) for pattern in archive.only)
    return chosen and not any(fnmatchcase(name, pattern) for pattern in archive.exclude)
