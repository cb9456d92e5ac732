"""The files of an environment that an installation of wheels may write, replace or remove."""

from __future__ import annotations

import csv
import os
import zipfile
from collections.abc import Collection, Iterator, Sequence
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass, field
from glob import escape
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

ADDED_BY_PIP = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")
"""The files that pip adds to a wheel's .dist-info."""
WRITTEN_IN_PLACE = frozenset({"easy-install.pth"})
"""Files that pip changes without replacing them: a hard link would be changed too."""


@dataclass
class Footprint:
    """All paths are absolute and without ``..``."""

    kept: set[Path] = field(default_factory=set)
    """Existing files and links."""
    new: set[Path] = field(default_factory=set)
    """Paths that do not exist, each in a folder that exists."""
    folders: set[Path] = field(default_factory=set)
    """Existing folders that hold the others."""


def footprint(site: Path, wheels: Sequence[Path]) -> Footprint:
    """What an installation of ``wheels`` into ``site`` may change: the files of the distributions that it
    replaces, all other files in these distributions' folders, and the files that it writes.

    Args:
        site: the folder of packages, such as ``.../lib/python3.11/site-packages``.

    Raises:
        OSError, zipfile.BadZipFile: a wheel cannot be read.
    """
    site = Path(os.path.abspath(site))  # noqa: PTH100 - links are kept
    root = _root(site)
    found = Footprint()
    names = {str(parse_wheel_filename(path.name)[0]) for path in wheels}
    for path in _old_files(site, root, names):
        _keep(found, path)
    for wheel in wheels:
        for path in _new_files(wheel, site, root):
            if os.path.lexists(path):
                _keep(found, path)
            else:
                missing = [path, *(parent for parent in path.parents if not os.path.lexists(parent))]
                found.new.add(missing[-1])
    for path in list(found.kept):
        for cached in compiled_files(path):
            _keep(found, cached)
    for path in (*found.kept, *found.new):
        found.folders |= {parent for parent in path.parents if root in parent.parents}
    return found


def distribution_files(site: Path, names: Sequence[str]) -> list[Path]:
    """The files of installed distributions and of their folders, in order, without bytecode."""
    site = Path(os.path.abspath(site))  # noqa: PTH100 - links are kept
    found = Footprint()
    for path in _old_files(site, _root(site), {canonicalize_name(name) for name in names}):
        _keep(found, path)
    return sorted(path for path in found.kept if path.suffix != ".pyc")


def compiled_files(path: Path) -> list[Path]:
    """The bytecode files of a Python file, in ``__pycache__``."""
    if path.suffix != ".py":
        return []
    return sorted((path.parent / "__pycache__").glob(f"{escape(path.stem)}.*.pyc"))


def _root(site: Path) -> Path:
    """The environment's folder: three above site-packages."""
    return site.parents[min(2, len(site.parents) - 1)]


def _keep(found: Footprint, path: Path) -> None:
    """Adds a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        for folder, folders, files in os.walk(path):
            here = Path(folder)
            found.folders.add(here)
            found.kept |= {here / name for name in files}
            found.kept |= {here / name for name in folders if (here / name).is_symlink()}
    elif os.path.lexists(path):
        found.kept.add(path)


def _old_files(site: Path, root: Path, names: Collection[str]) -> Iterator[Path]:
    """The files and folders of the installed distributions with these names."""
    for item in metadata.distributions(path=[str(site)]):
        info = getattr(item, "_path", None)
        if info is None or canonicalize_name(_name(item, Path(info))) not in names:
            continue
        yield Path(info)
        for path in _recorded(Path(info), site):
            if root not in path.parents:
                continue  # pip removes nothing outside the environment
            yield site / path.relative_to(site).parts[0] if site in path.parents else path
    yield site / "easy-install.pth"
    yield from (path for path in site.glob("*.egg-link") if canonicalize_name(path.stem) in names)


def _name(item: metadata.Distribution, info: Path) -> str:
    """The distribution's name; by its folder where the metadata is incomplete."""
    return item.metadata["Name"] or info.name.partition("-")[0]


def _recorded(info: Path, site: Path) -> list[Path]:
    """The files that the distribution's record names."""
    paths = []
    for record, base in ((info / "RECORD", site), (info / "installed-files.txt", info)):
        text = record.read_text(encoding="utf-8", errors="surrogateescape") if record.is_file() else ""
        rows = [row[0] for row in csv.reader(text.splitlines()) if row and row[0] and "\0" not in row[0]]
        paths += [Path(os.path.normpath(base / row)) for row in rows]
    return paths


def _new_files(wheel: Path, site: Path, root: Path) -> Iterator[Path]:
    """The files that pip writes for a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        info = next((name.partition("/")[0] for name in names if name.endswith(".dist-info/WHEEL")), None)
        scripts = _scripts(archive, info) if info else []
    yield from (Path(os.path.normpath(site / _destination(name, root, site))) for name in names)
    if info is not None:
        yield from (site / info / name for name in ADDED_BY_PIP)
    yield from (root / "bin" / name for name in scripts)


def _destination(name: str, root: Path, site: Path) -> Path:
    first, _, rest = name.partition("/")
    if not first.endswith(".data"):
        return site / name
    scheme, _, path = rest.partition("/")
    places = {"scripts": root / "bin", "data": root, "headers": root / "include" / "site" / site.parent.name}
    return places.get(scheme, site) / path


def _scripts(archive: zipfile.ZipFile, info: str) -> list[str]:
    """The names of the programs that a wheel's entry points make."""
    try:
        text = archive.read(f"{info}/entry_points.txt").decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return []
    parser = ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(text)
    except ConfigError:
        return []
    sections = ("console_scripts", "gui_scripts")
    return [name for section in sections if parser.has_section(section) for name in parser[section]]
