"""Renewing locks: each set of a stack is applied to what the sets below it make, and described."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mambaport.patching.apply import lock_of
from mambaport.patching.diff import read_patch
from mambaport.patchset import PatchSet


def refresh_lock(tree: Path, sets: Sequence[PatchSet]) -> list[PatchSet]:
    """Applies ``sets`` to the pristine ``tree`` and rewrites their locks. Returns the sets that changed.

    Raises:
        PatchError: a patch does not match exactly; locks of the sets below it are already renewed.
    """
    return [item for item in sets if item.write_lock(lock_of(tree, item))]


def refresh_checkout_lock(root: Path, item: PatchSet) -> list[PatchSet]:
    """Rewrites the lock of a checkout's patch set from the pristine checkout at ``root``.

    Its tree is the files that the patches change, and no others: a checkout holds more than its repository.

    Raises:
        PatchError: a patch does not match exactly.
    """
    with TemporaryDirectory(prefix="mambaport-refresh-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        for name in {diff.name for patch in item.patches for diff in read_patch(item.folder / patch.file)}:
            if (root / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, tree / name)
        return refresh_lock(tree, [item])
