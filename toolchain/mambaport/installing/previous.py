"""The environment before the last installation, kept after the proof, so that the user can go back to it.

The folder is the installation's backup under another name. Going back gives the backup its first name again
and restores it, so an interrupted way back is finished by the next installation, as an interrupted
installation is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from mambaport.errors import InstallError
from mambaport.installing.backup import FOLDER, Backup
from mambaport.installing.footprint import distribution_files

KEPT = ".mambaport-previous"
MARKS = "marks.json"
"""What the installation left: path of each file from site-packages -> size and time of change in ns."""
_HINT = "install the version that you want: `mambaport install` with --line, --wheelhouse or --index"


def keep(backup: Backup, names: Sequence[str]) -> None:
    """Keeps a backup after the proof, in place of an older one.

    Args:
        names: the distributions that were installed.
    """
    forget(backup.purelib)
    backup.name_new_files()
    with (backup.folder / MARKS).open("w", encoding="ascii") as stream:
        json.dump({"names": list(names), "files": _marks(backup.purelib, names)}, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    backup.folder.rename(_folder(backup.purelib))


def forget(site: Path) -> None:
    """Removes what was kept: a later installation has no way back beyond itself."""
    (_folder(site) / MARKS).unlink(missing_ok=True)  # without marks, the folder is no way back
    shutil.rmtree(_folder(site), ignore_errors=True)


def go_back(site: Path) -> list[str]:
    """Restores the environment before the last installation. The caller holds the environment's lock, and has
    restored an interrupted installation.

    Returns:
        The names of the distributions that the undone installation had installed.

    Raises:
        InstallError: nothing is kept, or the installed packages were changed after the installation.
    """
    folder = _folder(site)
    try:
        marks = json.loads((folder / MARKS).read_text(encoding="ascii"))
        left = {str(name): tuple(facts) for name, facts in marks["files"].items()}
        names = [str(name) for name in marks["names"]]
    except FileNotFoundError:
        raise InstallError(
            "There is no installation to undo",
            found=f"no {folder}",
            expected="an environment that `mambaport install --keep-previous` has changed last",
            hint=_HINT,
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise InstallError(
            "The kept environment cannot be read",
            found=f"{folder / MARKS}: {fault}",
            hint="install the version that you want; the files as they were are in that folder",
        ) from None
    now = _marks(site, names)
    changed = sorted(name for name in {*left, *now} if left.get(name) != now.get(name))
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise InstallError(
            "The installed packages were changed after the installation",
            found=f"{site / changed[0]}{more}",
            expected="the files as `mambaport install` has left them",
            hint=_HINT,
        )
    if missing := Backup(site, folder).missing():  # before anything is changed
        raise InstallError(
            "The kept environment is not whole",
            found=f"no copy of {missing[0]} in {folder}",
            expected="a copy of each file that the installation has replaced",
            hint=_HINT,
        )
    backup = Backup(site)
    backup.drop()
    folder.rename(site.parent / FOLDER)
    backup.restore()
    return names


def _folder(site: Path) -> Path:
    return site.parent / KEPT


def _marks(site: Path, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    found = {}
    for path in distribution_files(site, names):
        stat = path.lstat()
        found[os.path.relpath(path, site)] = (stat.st_size, stat.st_mtime_ns)
    return found
