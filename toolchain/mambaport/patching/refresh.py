"""Renewing locks: each set of a stack is applied to what the sets below it make, and described."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mambaport.patching.apply import lock_of
from mambaport.patchset import PatchSet


def refresh_lock(tree: Path, sets: Sequence[PatchSet]) -> list[PatchSet]:
    """Applies ``sets`` to the pristine ``tree`` and rewrites their locks. Returns the sets that changed.

    Raises:
        PatchError: a patch does not match exactly; locks of the sets below it are already renewed.
    """
    return [item for item in sets if item.write_lock(lock_of(tree, item))]
