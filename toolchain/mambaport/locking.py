"""Locks of the kernel (flock), which end with the process that holds them, however the process ends."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mambaport.errors import MambaportError

_NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF})
"""The answers of file systems that have no locks, such as some network file systems."""


def try_lock(handle: int) -> bool | None:
    """Locks an open file or folder: True, or False where another process has the lock. None without locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as fault:
        if fault.errno not in _NO_LOCKS:
            raise
        return None
    return True


@contextmanager
def locked(folder: Path, refusal: MambaportError) -> Iterator[None]:
    """Holds the lock of ``folder``; no file of the lock is left behind.

    A file system without locks gives no protection, and no error.

    Raises:
        MambaportError: ``refusal``; another process holds the lock.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if try_lock(handle) is False:
            raise refusal
        yield
    finally:
        os.close(handle)


@contextmanager
def lock_file(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the lock of a file that is made for this purpose, and removed at the end.

    Args:
        waiting: called once where another process holds the lock; then this process waits.
    """
    waits = False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        if try_lock(handle) is False:
            if not waits:
                waits = True
                waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        if same_file(path, handle):
            break
        os.close(handle)  # the process that held the lock has removed the file
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def remove_unlocked(path: Path) -> None:
    """Removes a lock's file that no process holds."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        if try_lock(handle) and same_file(path, handle):
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def same_file(path: Path, handle: int) -> bool:
    """Whether ``path`` still leads to the file or folder that ``handle`` has open."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False
