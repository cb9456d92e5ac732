"""Renewing locks: sets are applied to a pristine tree, and what they did is described."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from mambaport.patching.apply import lock_of
from mambaport.patching.diff import read_patch
from mambaport.patchset import Lock, PatchSet, write_lock
from mambaport.releases import ReleaseLock, combinations, release_folder


def refresh_lock(tree: Path, package: str, version: str) -> Path | None:
    """Rewrites a release's lock from the pristine ``tree``, which is only read. Returns a lock that changed.

    Raises:
        PatchError: a patch does not match. The lock is as it was.
    """
    found: dict[str, Lock] = {}
    for name, sets in combinations(package, version).items():
        with TemporaryDirectory(prefix="mambaport-refresh-") as folder:
            copy = shutil.copytree(tree, Path(folder) / "tree")
            found[name] = lock_of(copy, sets)
    path = release_folder(package, version) / "lock.json"
    return path if write_lock(path, ReleaseLock(combinations=found)) else None


def refresh_checkout_lock(root: Path, item: PatchSet) -> Path | None:
    """Rewrites the lock of a checkout's patch set from the pristine checkout at ``root``. Returns a lock that
    changed.

    Its tree is the files that the patches change, and no others: a checkout holds more than its repository.

    Raises:
        PatchError: a patch does not match.
    """
    with TemporaryDirectory(prefix="mambaport-refresh-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        for name in {diff.name for patch in item.patches for diff in read_patch(item.path(patch))}:
            if (root / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, tree / name)
        return item.folder / "lock.json" if item.write_lock(lock_of(tree, [item])) else None
