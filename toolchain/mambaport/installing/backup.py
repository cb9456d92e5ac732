"""The backup of an environment's packages, kept until the new packages are proven.

The backup lies beside site-packages, not inside, where Python and other tools would read it. A journal that
exists means an unfinished installation; the next installation first restores the backup.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from mambaport.errors import InstallError

FOLDER = ".mambaport-backup"


class Backup:
    """Copies of the files of installed distributions.

    Args:
        purelib: the environment's site-packages.
    """

    def __init__(self, purelib: Path) -> None:
        self.purelib = purelib
        self.folder = purelib.parent / FOLDER
        self.journal = self.folder / "journal.json"

    @property
    def pending(self) -> bool:
        """Whether an earlier installation was interrupted."""
        return self.journal.is_file()

    def take(self, distributions: dict[str, Path | None]) -> None:
        """Copies the files of each distribution: name -> its .dist-info folder, None when not installed.

        Raises:
            InstallError: the environment cannot be written to.
        """
        try:
            if not os.access(self.purelib, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.purelib))
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            kept = {}
            for name, info in distributions.items():
                kept[name] = self._copy(info) if info is not None else []
            partial = self.journal.with_suffix(".part")
            partial.write_text(json.dumps({"files": kept}, indent=1), encoding="utf-8")
            partial.replace(self.journal)  # from now on, an interrupted installation can be undone
        except PermissionError as fault:
            raise InstallError(
                "The environment cannot be written to",
                found=str(fault),
                hint="use an environment of your own (python3 -m venv), or the user that owns this one",
            ) from None

    def restore(self, remove: Callable[[list[str]], None]) -> list[str]:
        """Restores the copied files, after ``remove`` has uninstalled the present distributions by name.

        Returns:
            The names of the distributions.
        """
        files: dict[str, list[str]] = json.loads(self.journal.read_text(encoding="utf-8"))["files"]
        infos = [
            info for name in files for info in self.purelib.glob(f"{name.replace('-', '_')}-*.dist-info")
        ]
        stashes = self._stashes(files, infos)
        for info in infos:
            record = info / "RECORD"
            if not (record.is_file() and record.stat().st_size):  # interrupted: pip cannot uninstall it
                shutil.rmtree(info, ignore_errors=True)
        remove(list(files))
        # Folders that pip renamed during its work, and the rest of an interrupted installation.
        for leftover in (*stashes, *self._stashes(files, infos), *infos):
            shutil.rmtree(leftover, ignore_errors=True)
        for names in files.values():
            for name in names:
                target = self.purelib / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.folder / "files" / name, target)
        self.drop()
        return list(files)

    def drop(self) -> None:
        """Deletes the backup: the new packages are proven."""
        self.journal.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stashes(self, files: dict[str, list[str]], infos: list[Path]) -> list[Path]:
        """The folders of these distributions, and of no other, that pip renamed to uninstall them.

        Args:
            files: name of a distribution -> its files before the installation, relative to site-packages.
            infos: the distributions' present .dist-info folders.
        """
        renamed = list(self.purelib.glob("~*"))
        prefixes = "|".join(_stash_pattern(name.replace("-", "_")) for name in files)
        metadata = [path for path in renamed if re.fullmatch(rf"(?:{prefixes})-.*\.dist-info", path.name)]
        names = {Path(name).parts[0] for kept in files.values() for name in kept}
        for record in (info / "RECORD" for info in (*infos, *metadata)):
            names |= {Path(name).parts[0] for name in _recorded(record)}
        folders = "|".join(_stash_pattern(name) for name in names)
        return [*metadata, *(path for path in renamed if re.fullmatch(folders, path.name))]

    def _copy(self, info: Path) -> list[str]:
        names = []
        for name in _recorded(info / "RECORD"):
            source, target = self.purelib / name, self.folder / "files" / name
            if not source.is_file():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
            names.append(name)
        return names


def _recorded(record: Path) -> list[str]:
    """The files that a RECORD names inside site-packages. No wheel of mambaport has scripts in bin/."""
    text = record.read_text(encoding="utf-8") if record.is_file() else ""
    names = [row[0] for row in csv.reader(text.splitlines()) if row and row[0]]
    return [name for name in names if (parts := Path(name).parts) and not {"/", ".."} & set(parts)]


def _stash_pattern(name: str) -> str:
    """A regular expression for the names that pip gives a folder before pip deletes the folder.

    "~" is in place of the first character; where that name is taken, further characters are replaced.
    """
    ends = [f"{'[-~.=%0-9]' * (count - 1)}{re.escape(name[count:])}" for count in range(1, len(name))]
    return f"~(?:{'|'.join(ends)})" if ends else "(?!)"
