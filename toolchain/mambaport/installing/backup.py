"""The backup of the files that an installation may change, kept until the new packages are proven.

The backup lies beside site-packages, not inside, where Python and other tools would read it. A journal that
exists means an unfinished installation; the next installation first restores the backup. The copies are hard
links where the file system has them, and are moved back: restoring needs no space on the disk, changes no
file that was not changed, and can itself be interrupted and repeated.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mambaport.errors import InstallError
from mambaport.installing.footprint import WRITTEN_IN_PLACE, Footprint, compiled_files

FOLDER = ".mambaport-backup"
FORMAT = 2


class Backup:
    """The files of an environment before an installation.

    Args:
        purelib: the environment's site-packages.
        folder: where the backup is; beside site-packages by default.
    """

    def __init__(self, purelib: Path, folder: Path | None = None) -> None:
        self.purelib = purelib
        self.folder = folder or purelib.parent / FOLDER
        self.journal = self.folder / "journal.json"

    @property
    def pending(self) -> bool:
        """Whether an earlier installation was interrupted."""
        return self.journal.is_file()

    def take(self, names: Sequence[str], found: Footprint) -> None:
        """Keeps the files of ``found``. From the end of this call on, an interruption can be undone.

        Args:
            names: the distributions that will be installed, for messages.

        Raises:
            InstallError: the environment cannot be written to.
            OSError: the disk is full. Nothing has been changed.
        """
        kept = sorted(path for path in found.kept if path.is_symlink() or path.is_file())
        try:
            if not os.access(self.purelib, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.purelib))
            self.drop()
            (self.folder / "files").mkdir(parents=True)
            for number, path in enumerate(kept):
                _save(path, self._saved(number))
            journal = {
                "format": FORMAT,
                "names": list(names),
                "kept": [self._name(path) for path in kept],
                "new": sorted(self._name(path) for path in found.new),
                "folders": {self._name(path): path.stat().st_mode & 0o7777 for path in sorted(found.folders)},
                "renamed": [self._name(path) for path in _renamed(found.folders | {self.purelib})],
            }
            self._write(journal)
        except PermissionError as fault:
            self.drop()
            raise InstallError(
                "The environment cannot be written to",
                found=str(fault),
                hint="use an environment of your own (python3 -m venv), or the user that owns this one",
            ) from None
        except BaseException:
            self.drop()
            raise

    def restore(self) -> list[str]:
        """Restores the environment.

        Returns:
            The names of the distributions that were to be installed.

        Raises:
            InstallError: the journal or a file is refused by the system; the backup stays.
        """
        journal = self._read()
        try:
            self._remove_new(journal)
            for name, mode in sorted(journal["folders"].items()):
                folder = self._path(name)
                if not folder.is_dir():
                    _remove(folder)
                    folder.mkdir(parents=True)
                    folder.chmod(mode)
            for number, name in enumerate(journal["kept"]):
                _put_back(self._saved(number), self._path(name))
        except OSError as fault:
            raise InstallError(
                "The environment could not be restored",
                found=f"{fault.filename}: {fault.strerror}",
                hint="correct that, then run the same command again, which restores the environment first; "
                f"the files as they were are in {self.folder}",
            ) from None
        self.drop()
        return list(journal["names"])

    def name_new_files(self) -> None:
        """Names each file and folder that the installation has added, in place of the topmost folders.

        A later restoration then leaves what other packages have put into these folders.

        Raises:
            InstallError: the journal cannot be read.
            OSError: the disk is full. The journal is unchanged.
        """
        journal = self._read()
        files: set[Path] = set()
        folders: set[Path] = set()
        for top in map(self._path, journal["new"]):
            if not top.is_dir() or top.is_symlink():
                files.add(top)
                continue
            for path in (top, *top.rglob("*")):
                (folders if path.is_dir() and not path.is_symlink() else files).add(path)
        journal["new"] = sorted(map(self._name, files))
        journal["new_folders"] = sorted(map(self._name, folders))
        self._write(journal)

    def missing(self) -> list[Path]:
        """The files of the environment whose copies are not in the backup.

        Raises:
            InstallError: the journal cannot be read.
        """
        names = enumerate(self._read()["kept"])
        return [self._path(name) for number, name in names if not os.path.lexists(self._saved(number))]

    def drop(self) -> None:
        """Deletes the backup: the new packages are proven, or nothing was changed."""
        self.journal.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, journal: dict[str, Any]) -> None:
        partial = self.journal.with_suffix(".part")
        with partial.open("w", encoding="ascii") as stream:
            json.dump(journal, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(self.journal)

    def _read(self) -> dict[str, Any]:
        try:
            journal: dict[str, Any] = json.loads(self.journal.read_text(encoding="ascii"))
            if journal["format"] != FORMAT:
                raise ValueError(f"format {journal['format']}")
            journal.setdefault("new_folders", [])
            shapes = {"names": list, "kept": list, "new": list, "folders": dict, "renamed": list}
            shapes["new_folders"] = list
            if wrong := [key for key, kind in shapes.items() if not isinstance(journal[key], kind)]:
                raise ValueError(f"{wrong[0]} is no {shapes[wrong[0]].__name__}")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as fault:
            raise InstallError(
                "The journal of an earlier installation cannot be read",
                found=f"{self.journal}: {fault}",
                expected=f"a journal of format {FORMAT}",
                hint=f"the files as they were are in {self.folder}; install the packages again with pip, "
                "then remove that folder",
            ) from None
        return journal

    def _remove_new(self, journal: dict[str, Any]) -> None:
        """Removes what the installation has added: files, bytecode, and folders that pip renamed."""
        before = {self._path(name) for name in (*journal["kept"], *journal["folders"], *journal["renamed"])}
        folders = {self._path(name) for name in journal["folders"]}
        for path in _renamed(folders | {self.purelib}):
            siblings = [folder.name for folder in folders if folder.parent == path.parent]
            if path not in before and any(re.fullmatch(_stash_pattern(name), path.name) for name in siblings):
                _remove(path)
        for name in (*journal["new"], *journal["kept"]):
            for cached in compiled_files(self._path(name)):
                if cached not in before:
                    _remove(cached)
                    if cached.parent not in before and not any(cached.parent.iterdir()):
                        cached.parent.rmdir()
        for name in journal["new"]:
            _remove(self._path(name))
        for name in sorted(journal["new_folders"], reverse=True):  # a folder after the folders in it
            folder = self._path(name)
            if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
                folder.rmdir()

    def _saved(self, number: int) -> Path:
        return self.folder / "files" / str(number)

    def _name(self, path: Path) -> str:
        return os.path.relpath(path, self.purelib)

    def _path(self, name: str) -> Path:
        return Path(os.path.normpath(self.purelib / name))


def _renamed(folders: set[Path]) -> list[Path]:
    """The entries whose names begin as those that pip gives folders before pip deletes them."""
    return sorted(path for folder in folders if folder.is_dir() for path in folder.glob("~*"))


def _save(path: Path, saved: Path) -> None:
    """Keeps a file or a link: by a hard link, or by a copy with mode, times and owner."""
    if path.is_symlink():
        saved.symlink_to(path.readlink())
        return
    if path.name not in WRITTEN_IN_PLACE:
        try:
            saved.hardlink_to(path)
        except OSError:  # no hard links here, or none to files of others
            saved.unlink(missing_ok=True)
        else:
            return
    shutil.copy2(path, saved)
    stat = path.stat()
    if stat.st_uid != os.geteuid() or stat.st_gid != os.getegid():
        os.chown(saved, stat.st_uid, stat.st_gid)


def _put_back(saved: Path, path: Path) -> None:
    """Moves a kept file to its place. One that is not there was moved by an interrupted restoration."""
    if not os.path.lexists(saved):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    try:
        saved.replace(path)
    except OSError as fault:
        if fault.errno != errno.EXDEV:
            raise
        _remove(path)
        shutil.move(saved, path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _stash_pattern(name: str) -> str:
    """A regular expression for the names that pip gives a folder before pip deletes the folder.

    "~" is in place of the first character; where that name is taken, further characters are replaced.
    """
    ends = [f"{'[-~.=%0-9]' * (count - 1)}{re.escape(name[count:])}" for count in range(1, len(name))]
    return f"~(?:{'|'.join(ends)})" if ends else "(?!)"
