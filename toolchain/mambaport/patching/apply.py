"""Applying patch sets: exact match, whole or not at all, never outside the tree.

patch-ng does the writing. It alone would search nothing, report too little and leave half-patched trees, so
every hunk is first held against the file it changes; patch-ng then works on a staged copy, in a process of
its own because it changes the working directory; and at last each touched file's digest must be the one in
the lock. Only then does the staged copy take the tree's place.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

from mambaport import process
from mambaport.digests import file_sha256
from mambaport.errors import PatchError
from mambaport.patching.diff import FileDiff, read_patch
from mambaport.patching.hunks import Place, place_all, show_drift
from mambaport.patchset import Lock, PatchSet, TouchedFile

_PATCH_NG = Path(__file__).with_name("patch_ng_child.py")  # as a script: it needs nothing else of mambaport


def apply_sets(tree: Path, sets: Sequence[PatchSet]) -> None:
    """Applies ``sets`` in order to ``tree``, in place: all of them, or the tree stays as it was.

    Raises:
        PatchError: a patch does not match exactly, or the result is not what the lock says.
    """
    staged = Path(mkdtemp(prefix=f"{tree.name}-patching-", dir=tree.parent))
    try:
        shutil.copytree(tree, staged, dirs_exist_ok=True)
        for item in sets:
            _apply_locked(staged, item)
        _swap(staged, tree)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _apply_locked(tree: Path, item: PatchSet) -> None:
    lock = item.lock()
    # Patches are read and held against the files before the lock: a drifted line is named as such.
    for name, touched in lock.files.items():
        _check_before(tree, item, name, touched)
    changed = set(apply_set(tree, item))
    for name, file in lock.files.items():
        digest = file_sha256(tree / name) if (tree / name).is_file() else None
        if digest != file.after:
            raise PatchError(
                f"{name} is not what patch set {item.name} should make of it",
                found=f"sha256 {digest}",
                expected=f"sha256 {file.after} (lock.json)",
                hint="if the patch set was changed on purpose, `mambaport patches refresh` renews the lock",
            )
    if extra := changed - set(lock.files):
        raise PatchError(
            f"Patch set {item.name} touches files that its lock does not know",
            found=", ".join(sorted(extra)),
            hint="`mambaport patches refresh` renews the lock",
        )


def _check_before(tree: Path, item: PatchSet, name: str, file: TouchedFile) -> None:
    path = tree / name
    digest = file_sha256(path) if path.is_file() else None
    if digest == file.before:
        return
    for patch in item.patches:  # say which hunk, not only which digest
        for diff in read_patch(item.folder / patch.file):
            if diff.name == name and path.is_file():
                lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
                _match_exactly(lines, diff, patch.file)
                break
    raise PatchError(
        f"{name} is not the file that patch set {item.name} was made for",
        found=f"sha256 {digest}" if digest else "no such file",
        expected=f"sha256 {file.before} (lock.json)",
        hint="the source differs from the pinned one; fetch it again, or refresh the patch set on purpose",
    )


def apply_set(tree: Path, item: PatchSet) -> list[str]:
    """Applies one set's patches and overlay to ``tree``, without its lock. Returns the files it patched.

    Raises:
        PatchError: a patch does not match exactly, or an overlay file is already there.
    """
    expected, overlay = _expected_files(tree, item), item.overlay_files()
    _run_patch_ng(tree, item)
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
    return sorted(expected)


def _check_place(tree: Path, item: PatchSet, name: str) -> None:
    """Whether an overlay file may go where it goes: to a free place, or to that of the file it replaces."""
    target, replaced = tree / name, item.replaced.get(name)
    if replaced is None:
        if target.exists():
            raise PatchError(
                f"Overlay file {name} of patch set {item.name} is already in the tree",
                expected="a name that the source does not have",
                hint="change an existing file with a patch, or name it under [[replace]] with its sha256",
            )
        return
    found = file_sha256(target) if target.is_file() else None
    if found != replaced:
        raise PatchError(
            f"Patch set {item.name} does not replace this {name}",
            found=f"sha256 {found}" if found else "no such file",
            expected=f"sha256 {replaced} (patchset.toml)",
            hint="read what upstream changed in that file, take it over, then name the new sha256",
        )


def _expected_files(tree: Path, item: PatchSet) -> dict[str, list[str]]:
    """Every file that the set's patches change, as lines, with all of them applied in memory.

    Raises:
        PatchError: a hunk does not match exactly.
    """
    files: dict[str, list[str]] = {}
    for patch in item.patches:
        for diff in read_patch(item.folder / patch.file):
            if diff.name not in files:
                files[diff.name] = _target(tree, diff, patch.file).read_text(encoding="utf-8").split("\n")
            files[diff.name] = _match_exactly(files[diff.name], diff, patch.file)
    return files


def lock_of(tree: Path, item: PatchSet) -> Lock:
    """Applies one set to ``tree`` and returns the lock that describes what it did."""
    names = sorted({diff.name for patch in item.patches for diff in read_patch(item.folder / patch.file)})
    before = {name: file_sha256(tree / name) for name in names if (tree / name).is_file()}
    files = {
        name: TouchedFile(before=before.get(name), after=file_sha256(tree / name))
        for name in apply_set(tree, item)
    }
    return Lock(files=files)


def _target(tree: Path, diff: FileDiff, patch: str) -> Path:
    path = tree / diff.name
    inside = path.resolve().is_relative_to(tree.resolve())
    if not inside or path.is_symlink():
        raise PatchError(f"{patch} is refused", found=f"{diff.name} leads outside the tree")
    if not path.is_file():
        raise PatchError(
            f"{patch} changes a file that is not there",
            found=f"no {diff.name} in the tree",
            expected=f"{diff.name}, as in the pinned source",
            hint="`mambaport patches check --against VERSION` says which patches fit another version",
        )
    return path


def _match_exactly(lines: list[str], diff: FileDiff, patch: str) -> list[str]:
    """Holds every hunk against a file's lines, at its own place. Returns the lines that it makes.

    Raises:
        PatchError: with file, hunk, expected and found lines.
    """
    places, result = place_all(lines, diff)
    if all(place.state == "exact" for place in places):
        return result
    if all(place.state == "applied" for place in places):
        raise PatchError(
            f"{patch} is already applied",
            found=f"{diff.name} already has the lines that it adds",
            expected="the source before the patch",
            hint="start from a pristine tree: `mambaport patch -p PROFILE -o DIR` makes one",
        )
    place = next(place for place in places if place.state != "exact")
    raise _drift(lines, diff, place, patch)


def _drift(lines: list[str], diff: FileDiff, place: Place, patch: str) -> PatchError:
    hunk = place.hunk
    where = f"{diff.name}, hunk {hunk.number} at line {hunk.start}"
    if place.state == "moved":
        return PatchError(
            f"{patch} does not match exactly: {where}",
            found=f"the same lines at line {place.line}",
            expected=f"them at line {hunk.start}; mambaport does not shift or fuzz patches",
            hint="refresh the patch against this source, so that its line numbers are right",
        )
    if place.state == "applied":
        found = "the lines that this hunk adds, but not those of the patch's other hunks"
    else:
        found = "other lines (+ below)"
    return PatchError(
        f"{patch} does not match: {where}",
        found=found,
        expected="the lines that the patch was made for (- below)",
        hint="the source is not the pinned one, or the patch must be made anew for it; nothing was changed",
        detail=show_drift(lines, hunk, place.line),
    )


def _run_patch_ng(tree: Path, item: PatchSet) -> None:
    patches = [(item.folder / patch.file).resolve() for patch in item.patches]
    finished = process.run([sys.executable, "-I", _PATCH_NG, tree.resolve(), *patches])
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
