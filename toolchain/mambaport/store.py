"""The store: finished things only, each under the digest of what it was made from.

An entry is built in a scratch folder, flushed to disk, and renamed into place, under a lock of its own. So
a reader never sees half an entry, two builds at once make it once, and a kill leaves nothing but scratch and
locks, which the next run sweeps away: a scratch folder or a lock that no process holds is abandoned.

Every entry is sealed before it is renamed, and compared with its seal whenever it is asked for. An entry that
differs is removed, so that whoever asked makes it anew. Archives have no seal: the fetcher compares each with
its pin.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mambaport.errors import DISK_FULL, HostError
from mambaport.locking import lock_file, remove_unlocked
from mambaport.seals import Seal
from mambaport.temporary import temporary_folder

KINDS = ("archives", "toolchains", "environments", "wheels", "compilations", "roots", "sites")
SEALED = ("toolchains", "environments", "wheels", "roots", "sites")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,200}")
_FSYNC_EACH_UP_TO = 64
LOG_KEY = 8
"""Digits of an entry's key in the name of its log."""
FILE_TIME = 1_000_000_000
"""The time of change of a toolchain's files, in seconds since 1970."""


@dataclass(frozen=True)
class Entry:
    """One finished thing in the store."""

    kind: str
    key: str
    path: Path
    size: int
    """Bytes on disk."""


class Store:
    """A folder of finished things. Safe for several processes and for being killed at any point.

    Args:
        root: the folder; created when it does not exist.
        waiting: called with an entry's name when another process is making it.
        changed: called with a sentence when an entry is removed because it differs from its seal.
    """

    def __init__(
        self,
        root: Path,
        waiting: Callable[[str], None] = lambda _name: None,
        changed: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.root = root
        self.waiting = waiting
        self.changed = changed

    def path(self, kind: str, key: str) -> Path:
        """The path of an entry, whether or not the entry exists."""
        if kind not in KINDS or not _KEY.fullmatch(key):
            raise ValueError(f"not a store entry: {kind}/{key}")
        return self.root / kind / key

    def get(self, kind: str, key: str) -> Path | None:
        """The entry's folder; None for an entry that was never finished, or was removed: it differed from its
        seal."""
        path = self.path(kind, key)
        if not path.is_dir():
            return None
        if self._whole(kind, key):
            return path
        with self.lock(f"{kind}-{key}"):
            return self._checked(kind, key)

    def make(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """The entry's folder. If the entry does not exist yet, ``build`` fills an empty folder.

        When ``build`` raises, nothing is kept.
        """
        path = self.path(kind, key)
        if path.is_dir() and self._whole(kind, key):
            return path
        with self.lock(f"{kind}-{key}"):
            if self._checked(kind, key) is not None:  # made by another process while we waited
                return path
            with self.scratch() as scratch:
                entry = scratch / "entry"
                entry.mkdir()
                build(entry)
                if kind == "toolchains":
                    _same_times(entry)
                flush(entry)
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind in SEALED:
                    self._seal(kind, key).write(entry)
                entry.rename(path)
                _fsync(path.parent)
        return path

    def update(self, kind: str, key: str, change: Callable[[Path], None]) -> None:
        """Changes an entry by ``change``, and seals it again. A kill in between costs the entry.

        An entry that differs from its seal is removed in place of being changed.
        """
        with self.lock(f"{kind}-{key}"):
            if self._checked(kind, key) is None:
                return
            change(self.path(kind, key))
            self._seal(kind, key).write(self.path(kind, key))

    def discard(self, kind: str, key: str) -> None:
        """Removes an entry, for example one whose content no longer has its digest."""
        with self.lock(f"{kind}-{key}"):
            self._discard(kind, key)

    def _discard(self, kind: str, key: str) -> None:
        with self.scratch() as scratch, contextlib.suppress(FileNotFoundError):
            # One atomic step removes the entry; then its files are deleted.
            self.path(kind, key).rename(scratch / "discarded")
            self._seal(kind, key).path.unlink(missing_ok=True)

    def _seal(self, kind: str, key: str) -> Seal:
        return Seal(self.root / "seals" / kind / key)

    def _whole(self, kind: str, key: str) -> bool:
        """Whether an entry is as it was sealed. Without the entry's lock, False may mean: being updated."""
        if kind not in SEALED:
            return True
        seal, path = self._seal(kind, key), self.path(kind, key)
        return seal.unchanged(path) or seal.difference(path) is None

    def _checked(self, kind: str, key: str) -> Path | None:
        """The entry's folder; None where there is none, or where it differs, and is removed. The caller holds
        the entry's lock."""
        path = self.path(kind, key)
        if not path.is_dir():
            return None
        if self._whole(kind, key):
            return path
        found = self._seal(kind, key).difference(path)
        self._discard(kind, key)
        self.changed(f"{kind}/{key} in the store is not as it was made ({found}); it is made again")
        return None

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """A lock that one process holds at a time; the kernel releases the lock of a dead process."""
        folder = self._folder("locks")
        with lock_file(folder / f"{name}.lock", lambda: self.waiting(name)):
            yield

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for work in progress, on the store's disk; removed when the block ends."""
        for path in (self.root / "locks").glob("*.lock"):
            remove_unlocked(path)
        with temporary_folder(self._folder("scratch")) as path:
            yield path

    @property
    def logs(self) -> Path:
        """The folder of the builds' logs: ``NAME-VERSION-KEY.log``, with the first digits of the key."""
        return self._folder("logs")

    def clear_logs(self) -> int:
        """Removes the logs, but for those of entries that a process is making.

        Returns:
            the number of removed logs
        """
        logs = list(self.logs.glob("*.log"))
        locks = self._folder("locks")
        for path in locks.glob("*.lock"):
            remove_unlocked(path)
        held = [path.name for path in locks.iterdir()]
        done = [path for path in logs if not any(path.stem[-LOG_KEY:] in name for name in held)]
        for path in done:
            path.unlink(missing_ok=True)
        for folder in (self.logs, locks):
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        return len(done)

    def entries(self) -> list[Entry]:
        """Every entry of the store."""
        found = []
        for kind in KINDS:
            for path in sorted((self.root / kind).glob("*")):
                if path.is_dir():
                    found.append(Entry(kind, path.name, path, _disk_usage(path)))
        return found

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            if fault.errno in DISK_FULL:
                raise
            raise HostError(
                "The store cannot be written to",
                found=f"{fault.filename}: {fault.strerror}",
                expected="a folder that belongs to you",
                hint="point MAMBAPORT_CACHE at such a folder",
            ) from None
        return folder


def _disk_usage(root: Path) -> int:
    total = 0
    for path in root.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_blocks * 512
    return total


def _same_times(folder: Path) -> None:
    """Gives every file one time of change.

    gcc takes two headers with `#pragma once`, one time and one content for one file. With the times of
    unpacking, chance would decide what the preprocessor puts out.
    """
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (FILE_TIME, FILE_TIME))


def flush(root: Path) -> None:
    """Flushes a finished folder to the disk before the folder is renamed to its final path."""
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    if len(files) > _FSYNC_EACH_UP_TO:
        _sync_filesystem(root)  # one call instead of thousands
        return
    for path in files:
        _fsync(path)
    _fsync(root)


def _sync_filesystem(folder: Path) -> None:
    """Flushes the pending writes of the folder's filesystem, and of no other filesystem."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        if libc.syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(handle)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
