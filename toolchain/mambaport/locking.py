"""A lock on a folder, held by flock on the folder: no file of the lock is left behind."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mambaport.errors import MambaportError

_NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK})
"""The answers of file systems that have no locks, such as some network file systems."""


@contextmanager
def locked(folder: Path, refusal: MambaportError) -> Iterator[None]:
    """Holds the lock of ``folder``. The kernel releases the lock when the process ends, however it ends.

    A file system without locks gives no protection, and no error.

    Raises:
        MambaportError: ``refusal``; another process holds the lock.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refusal from None
        except OSError as fault:
            if fault.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(handle)
