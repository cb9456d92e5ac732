"""The compiled objects of the local compiler cache: recorded after each build, compared before the next one.

sccache finds an object by the digest of the compiler's input, and cannot tell whether the compiler made that
object. So mambaport records the sha256 of every object. An object that differs from its record is removed and
compiled again. An object without a record is from a build that was killed, or that still runs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from mambaport.digests import file_sha256
from mambaport.store import Store
from mambaport.temporary import temporary_file

KIND = "compilations"
Record = dict[str, tuple[list[int], str]]
"""Relative path -> the file system's marks (size, times of change, inode), and the sha256."""


def compilations(store: Store) -> Path:
    """The folder of the compiled objects."""
    return store.root / KIND


def check_compilations(store: Store) -> list[str]:
    """Removes the objects that differ from their record. Returns their relative paths."""
    folder, removed = compilations(store), []
    if not folder.is_dir():
        return []
    with store.lock(KIND):
        record = _read(_path(store))
        for name, path in _objects(folder):
            if name not in record:
                continue
            with contextlib.suppress(FileNotFoundError):  # sccache removes old objects
                if _marks(path) != record[name][0] and file_sha256(path) != record[name][1]:
                    path.unlink()
                    removed.append(name)
    return removed


def record_compilations(store: Store) -> None:
    """Records every object as it is now."""
    folder, path = compilations(store), _path(store)
    with store.lock(KIND):
        before, after = _read(path), Record()
        for name, item in _objects(folder):
            with contextlib.suppress(FileNotFoundError):
                marks = _marks(item)
                known = before.get(name)
                same = known is not None and known[0] == marks
                after[name] = known if known is not None and same else (marks, file_sha256(item))
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path) as scratch:
            scratch.write_text(json.dumps(after), encoding="ascii")
            scratch.replace(path)


def _path(store: Store) -> Path:
    return store.root / "seals" / f"{KIND}.json"


def _objects(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(folder).as_posix(), path


def _marks(path: Path) -> list[int]:
    at = path.stat()
    return [at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino]


def _read(path: Path) -> Record:
    """The record; empty where there is none, or no readable one."""
    try:
        data = json.loads(path.read_text(encoding="ascii"))
        return {str(name): (list(marks), str(digest)) for name, (marks, digest) in data.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
