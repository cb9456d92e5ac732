"""Applying patch sets: without fuzz, whole or not at all, never outside the tree.

patch-ng does the writing. It alone would search nothing, report too little and leave half-patched trees, so
every hunk is first held against the file it changes; patch-ng then works on a staged copy, in a process of
its own because it changes the working directory; and at last each touched file's digest must be the one in
the lock. Only then does the staged copy take the tree's place.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from mambaport import process
from mambaport.digests import file_sha256
from mambaport.errors import PatchError
from mambaport.patching.diff import FileDiff, read_patch
from mambaport.patching.hunks import Place
from mambaport.patching.match import match, renumbered
from mambaport.patchset import Lock, Moved, PatchSet, TouchedFile

_PATCH_NG = Path(__file__).with_name("patch_ng_child.py")  # as a script: it needs nothing else of mambaport


def apply_sets(tree: Path, sets: Sequence[PatchSet], lock: Lock | None) -> Moved:
    """Applies ``sets`` in order to ``tree``, in place: all of them, or the tree stays as it was.

    Args:
        lock: what the sets must make of the tree. Without one, for a combination of sets that no lock knows,
            every hunk must stand at its own line or at the only place that has its lines.

    Returns:
        The hunks that stand at another line than their patch says.

    Raises:
        PatchError: a patch does not match, or the result is not what the lock says.
    """
    staged = Path(mkdtemp(prefix=f"{tree.name}-patching-", dir=tree.parent))
    try:
        shutil.copytree(tree, staged, dirs_exist_ok=True)
        if lock is not None:
            for name, touched in lock.files.items():
                _check_before(staged, sets, name, touched, lock.moved)
        moved, changed = _apply_all(staged, sets, lock)
        if lock is not None:
            _check_after(staged, changed, lock)
        _swap(staged, tree)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return moved


def lock_of(tree: Path, sets: Sequence[PatchSet]) -> Lock:
    """Applies ``sets`` to ``tree``, in place, and returns the lock that describes what they did.

    Raises:
        PatchError: a patch does not match.
    """
    names = {diff.name for item in sets for patch in item.patches for diff in read_patch(item.path(patch))}
    before = {name: file_sha256(tree / name) for name in names if (tree / name).is_file()}
    moved, changed = _apply_all(tree, sets, None)
    files = {
        name: TouchedFile(before=before.get(name), after=file_sha256(tree / name)) for name in sorted(changed)
    }
    return Lock(files=files, moved=moved)


def _apply_all(tree: Path, sets: Sequence[PatchSet], lock: Lock | None) -> tuple[Moved, set[str]]:
    """The hunks that moved, and upstream's files that the patches changed."""
    moved: Moved = {}
    changed: set[str] = set()
    for item in sets:
        places = apply_set(tree, item, lock.moved if lock is not None else None)
        changed |= {name for files in places.values() for name in files}
        for patch, files in places.items():
            elsewhere = {
                name: {place.hunk.number: place.line for place in found if place.state == "moved"}
                for name, found in files.items()
            }
            if elsewhere := {name: lines for name, lines in elsewhere.items() if lines}:
                moved[patch] = elsewhere
    # A file that is an overlay of a lower set is ours, also where a higher set patches it.
    return moved, changed - {name for item in sets for name in item.overlay_files()}


def _check_after(tree: Path, changed: set[str], lock: Lock) -> None:
    for name, file in lock.files.items():
        digest = file_sha256(tree / name) if (tree / name).is_file() else None
        if digest != file.after:
            raise PatchError(
                f"{name} is not what the patch sets should make of it",
                found=f"sha256 {digest}",
                expected=f"sha256 {file.after} (lock.json)",
                hint="if a patch set was changed on purpose, `mambaport patches refresh` renews the lock",
            )
    if extra := changed - set(lock.files):
        raise PatchError(
            "The patch sets touch files that the lock does not know",
            found=", ".join(sorted(extra)),
            hint="`mambaport patches refresh` renews the lock",
        )


def _check_before(
    tree: Path, sets: Sequence[PatchSet], name: str, file: TouchedFile, recorded: Moved
) -> None:
    target = tree / name
    digest = file_sha256(target) if target.is_file() else None
    if digest == file.before:
        return
    lines = target.read_text(encoding="utf-8", errors="replace").split("\n") if target.is_file() else []
    for item in sets:  # say which hunk, not only which digest
        for patch in item.patches if lines else ():
            path = item.path(patch)
            moved = recorded.get(f"{item.name}/{path.name}", {}).get(name, {})
            for diff in read_patch(path):
                if diff.name == name:
                    _places, lines = match(lines, diff, path.name, moved)
    raise PatchError(
        f"{name} is not the file that the patch sets were made for",
        found=f"sha256 {digest}" if digest else "no such file",
        expected=f"sha256 {file.before} (lock.json)",
        hint="the source differs from the pinned one; fetch it again, or refresh the patch set on purpose",
    )


def apply_set(tree: Path, item: PatchSet, recorded: Moved | None = None) -> dict[str, dict[str, list[Place]]]:
    """Applies one set's patches and overlay to ``tree``.

    Args:
        recorded: the hunks that may stand at another line, and the lines. None: any hunk may, where its
            lines have one place in the file.

    Returns:
        Patch as ``set/text`` -> file -> the place of each hunk.

    Raises:
        PatchError: a patch does not match, or an overlay file is in the tree already.
    """
    places, expected = _match_all(tree, item, recorded)
    overlay = item.overlay_files()
    _run_patch_ng(tree, item, places)
    for name, lines in expected.items():
        if (tree / name).read_text(encoding="utf-8").split("\n") != lines:
            raise PatchError(
                f"patch-ng made something else of {name} than the hunks say", hint="this is a bug"
            )
    for name in item.replaced.keys() - overlay.keys():
        raise PatchError(f"Patch set {item.name} replaces {name} by nothing", expected=f"overlay/{name}")
    for name, source in overlay.items():
        _check_place(tree, item, name)
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return places


def _check_place(tree: Path, item: PatchSet, name: str) -> None:
    """Whether an overlay file may go where it goes: to a free place, or to that of the file it replaces."""
    target = tree / name
    if name not in item.replaced:
        if target.exists():
            raise PatchError(
                f"Overlay file {name} of patch set {item.name} is already in the tree",
                expected="a name that the source does not have",
                hint="change an existing file with a patch, or name it under [[replace]] with its sha256",
            )
        return
    expected = item.replaced[name]
    found = file_sha256(target) if target.is_file() else None
    if found not in expected:
        raise PatchError(
            f"Patch set {item.name} does not replace this {name}",
            found=f"sha256 {found}" if found else "no such file",
            expected=f"sha256 {' or '.join(sorted(expected))} (patchset.toml)",
            hint="read what upstream changed in that file, take it over, then name the new sha256",
        )


def _match_all(
    tree: Path, item: PatchSet, recorded: Moved | None
) -> tuple[dict[str, dict[str, list[Place]]], dict[str, list[str]]]:
    """Every hunk's place, and every file that the set's patches change, as lines, with all of them applied.

    Raises:
        PatchError: a hunk does not match.
    """
    files: dict[str, list[str]] = {}
    places: dict[str, dict[str, list[Place]]] = {}
    for patch in item.patches:
        path = item.path(patch)
        label = f"{item.name}/{path.name}"
        places[label] = {}
        for diff in read_patch(path):
            if diff.name not in files:
                files[diff.name] = _target(tree, diff, path.name).read_text(encoding="utf-8").split("\n")
            lines = None if recorded is None else recorded.get(label, {}).get(diff.name, {})
            places[label][diff.name], files[diff.name] = match(files[diff.name], diff, path.name, lines)
    return places, files


def _target(tree: Path, diff: FileDiff, patch: str) -> Path:
    path = tree / diff.name
    inside = path.resolve().is_relative_to(tree.resolve())
    if not inside or path.is_symlink():
        raise PatchError(f"{patch} is refused", found=f"{diff.name} leads outside the tree")
    if not path.is_file():
        raise PatchError(
            f"{patch} changes a file that does not exist",
            found=f"no {diff.name} in the tree",
            expected=f"{diff.name}, as in the pinned source",
            hint="`mambaport patches check --against VERSION` says which patches fit another version",
        )
    return path


def _run_patch_ng(tree: Path, item: PatchSet, places: Mapping[str, Mapping[str, list[Place]]]) -> None:
    """patch-ng shifts no hunk, so it gets each patch with the line numbers where its hunks stand."""
    if not item.patches:
        return
    with TemporaryDirectory(prefix="mambaport-series-") as folder:
        paths = []
        for patch in item.patches:
            path = item.path(patch)
            copy = Path(folder) / path.name
            copy.write_text(renumbered(path, places[f"{item.name}/{path.name}"]), encoding="utf-8")
            paths.append(copy)
        # patch-ng returns to the working folder, whose path may be too long for that.
        finished = process.run([sys.executable, "-I", _PATCH_NG, tree.resolve(), *paths], cwd=Path(folder))
    if not finished.ok:
        raise PatchError(
            f"The patches of {item.name} match, but patch-ng did not apply them",
            found=finished.tail,
            hint="this is a bug",
        )


def _swap(staged: Path, tree: Path) -> None:
    """Puts ``staged`` where ``tree`` is, by two renames; the old tree is removed afterwards."""
    aside = staged.with_name(staged.name + "-old")
    tree.rename(aside)
    staged.rename(tree)
    shutil.rmtree(aside, ignore_errors=True)
