"""Files and folders for work in progress. What a killed process leaves, the next process removes.

The process that makes a temporary file or folder holds a lock of the kernel on it. A file or folder without
such a lock is abandoned. The names end in :data:`MARK`, so that nothing of another program is removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mambaport.interruption import postponed
from mambaport.locking import same_file, try_lock

MARK = ".mambaport-part"
_LONGEST = 180
"""The number of characters of a file's name that its temporary file keeps: names have at most 255 bytes."""


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``, removed when the block ends.

    Raises:
        OSError: ``parent`` does not exist or cannot be written to.
    """
    sweep(parent)
    path: Path | None = None
    handle: int | None = None
    try:
        with postponed():  # an interruption between the making and the block would leave the folder
            while handle is None:
                path = Path(tempfile.mkdtemp(suffix=MARK, prefix="", dir=parent))
                handle = _claim(path)
        assert path is not None
        yield path
    finally:
        with postponed():
            if path is not None:
                _remove(path)
            if handle is not None:
                os.close(handle)


@contextmanager
def temporary_file(target: Path) -> Iterator[Path]:
    """A new, empty file beside ``target``, removed when the block ends unless the file was renamed.

    Raises:
        OSError: the folder does not exist or cannot be written to.
    """
    sweep(target.parent)
    name = target.name.encode()[:_LONGEST].decode(errors="ignore")
    path: Path | None = None
    handle: int | None = None
    try:
        with postponed():
            while handle is None:
                made, text = tempfile.mkstemp(suffix=MARK, prefix=f".{name}.", dir=target.parent)
                path = Path(text)
                if try_lock(made) is not False and same_file(path, made):
                    handle = made
                else:
                    os.close(made)
        assert path is not None
        yield path
    finally:
        with postponed():
            if path is not None:
                path.unlink(missing_ok=True)
            if handle is not None:
                os.close(handle)


def sweep(folder: Path) -> None:
    """Removes the abandoned temporary files and folders of this user in ``folder``."""
    try:
        with os.scandir(folder) as rows:
            found = [Path(row.path) for row in rows if row.name.endswith(MARK)]
    except OSError:
        return
    for path in found:
        handle = None
        with contextlib.suppress(OSError):
            handle = _open(path)
            if os.fstat(handle).st_uid == os.geteuid() and try_lock(handle) and same_file(path, handle):
                _remove(path)
        if handle is not None:
            os.close(handle)


@contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Python's temporary folder is one of this process, while the block runs.

    Libraries make temporary files too; when the process is killed, the next process finds all of them here.
    Where no temporary folder can be made, nothing changes.
    """
    with contextlib.ExitStack() as stack:
        before = tempfile.tempdir
        try:
            path = stack.enter_context(temporary_folder(Path(tempfile.gettempdir())))
        except OSError:
            yield
            return
        stack.callback(setattr, tempfile, "tempdir", before)
        tempfile.tempdir = str(path)
        yield


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _claim(path: Path) -> int | None:
    """A handle that holds the folder's lock; None where a sweep came first, and removes the folder."""
    try:
        handle = _open(path)
    except FileNotFoundError:
        return None
    if try_lock(handle) is not False and same_file(path, handle):
        return handle
    os.close(handle)
    return None


def _remove(path: Path) -> None:
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for _ in range(20):  # programs of a killed process may still write for a moment
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(0.01)
