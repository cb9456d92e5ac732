"""Seals: what a folder of the store held when it was finished, to be compared before the folder is used.

A seal has two parts. The *marks* are what the file system says of each file: size, mode, inode, and the times
of change. No system call sets the time of the last change of status (ctime): a written file shows, also when
its time of modification is put back. The *contents* are the sha256 of every file. Equal marks are enough, and
take milliseconds. Where they differ (a copied store, for example), the contents decide.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from mambaport.digests import file_sha256
from mambaport.temporary import temporary_file

Contents = Mapping[str, str]
"""Relative path -> kind and content: ``f``, ``x`` (executable) with a sha256; ``l`` with a target; ``d``."""


def _walk(root: str, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Every file, link and folder below ``root``; the names of one folder in order."""
    with os.scandir(root) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = prefix + entry.name
        yield name, entry.stat(follow_symlinks=False)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, name + "/")


def marks(root: Path) -> str:
    """The digest of what the file system says of everything below ``root``, without reading a file.

    Of a folder, only its name and mode count: its files are below it.
    """
    digest = hashlib.sha256()
    for name, at in _walk(str(root)):
        facts: tuple[int, ...] = (at.st_mode,)
        if not stat.S_ISDIR(at.st_mode):
            facts = (at.st_mode, at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino)
        digest.update(os.fsencode(name) + b"\0" + repr(facts).encode() + b"\n")
    return digest.hexdigest()


def contents(root: Path) -> dict[str, str]:
    """Everything below ``root``, by content."""
    return {name: _content(root / name, at) for name, at in _walk(str(root))}


def _content(path: Path, at: os.stat_result) -> str:
    if stat.S_ISDIR(at.st_mode):
        return "d"
    if stat.S_ISLNK(at.st_mode):
        return f"l {path.readlink()}"
    if not stat.S_ISREG(at.st_mode):
        return f"{stat.S_IFMT(at.st_mode):o}"
    try:
        digest = file_sha256(path)
    except PermissionError:  # a root of another user's files: as good as its size
        digest = f"unreadable, {at.st_size} bytes"
    return f"{'x' if at.st_mode & stat.S_IXUSR else 'f'} {digest}"


class Seal:
    """The seal of one folder, in a file outside the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, folder: Path) -> None:
        """Seals a folder as it is now. The seal's file appears whole or not at all."""
        self._write(marks(folder), contents(folder))

    def _write(self, seen: str, held: Contents) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(self.path) as scratch:
            with scratch.open("w", encoding="ascii") as stream:
                stream.write(seen + "\n")
                json.dump(held, stream)
                stream.flush()
                os.fsync(stream.fileno())
            scratch.replace(self.path)

    def unchanged(self, folder: Path) -> bool:
        """Whether the file system says that nothing below ``folder`` has changed: quick."""
        try:
            with self.path.open(encoding="ascii") as stream:
                return stream.readline().rstrip("\n") == marks(folder)
        except (OSError, ValueError):
            return False

    def difference(self, folder: Path) -> str | None:
        """What differs from the seal, by content; None where nothing does, and then the marks are renewed."""
        try:
            lines = self.path.read_text(encoding="ascii").split("\n", 1)
            sealed = json.loads(lines[1])
        except FileNotFoundError:
            return "no seal"
        except (OSError, ValueError, IndexError, RecursionError):
            return "no readable seal"
        if not isinstance(sealed, dict):
            return "no readable seal"
        seen = marks(folder)  # before the contents: a change in between shows the next time
        held = contents(folder)
        if held == sealed:
            with contextlib.suppress(OSError):  # a store that may only be read
                self._write(seen, held)
            return None
        changed = sorted(name for name in {*held, *sealed} if held.get(name) != sealed.get(name))
        kinds = [
            f"{name} ({'added' if name not in sealed else 'removed' if name not in held else 'changed'})"
            for name in changed
            if held.get(name) != "d" or name in sealed
        ]
        more = f" and {len(kinds) - 1} more" if len(kinds) > 1 else ""
        return f"{(kinds or changed)[0]}{more}"
