"""Sources and patch sets as data: what stands in ``patches/<package>/``.

``releases/<version>/source.toml`` pins the archives. Each other folder is a patch set: ``patchset.toml`` with
the reasons, numbered patches, an ``overlay/`` of files that are wholly ours, and ``lock.json``. A set can
also bring packages of ``kernels/`` into the tree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from mambaport.digests import data_sha256, file_sha256, tree_files
from mambaport.errors import PatchError, UsageError
from mambaport.models import Model, Name, Sha256, VersionText, read_toml, validate
from mambaport.pins import Pin
from mambaport.resources import kernels_dir, patches_dir

PatchFile = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[a-z0-9-]+\.patch$")]


class Archive(Pin):
    """One pinned archive, and which of its files belong to the tree."""

    strip: str
    """The folder inside the archive that becomes the tree's root."""
    only: tuple[str, ...] = ()
    """Patterns of the files taken; all when empty."""
    exclude: tuple[str, ...] = ()
    """Patterns of the files left out."""
    why: str = ""
    """Why this archive is needed, where that is not plain."""


class Source(Model):
    """The pristine source of one package version: one tree, made of one archive or several."""

    package: Name
    version: VersionText
    epoch: int
    """SOURCE_DATE_EPOCH of everything built from it: seconds since 1970, upstream's release."""
    local_version_variable: str
    """The variable in which the package's setup.py takes a local version label."""
    fallback_variable: str
    """The variable that leaves its kernels out at build time, and forces pure PyTorch at run time."""
    license: str
    """SPDX expression."""
    homepage: str
    archive: tuple[Archive, ...] = Field(min_length=1)


class Change(Model):
    """What a set does to a file or files of upstream's, and why."""

    why: str = Field(min_length=20)
    failures: tuple[str, ...] = ()
    """Rows of the failure catalogue that the change owns (docs/reference/failures.md)."""
    thread: str | None = None
    """The public thread, as ``owner/repository#number``."""
    file: str


class Patch(Change):
    """One patch of a series; ``file`` is the patch's name."""

    file: PatchFile
    upstream: VersionText | None = None
    """The upstream release that has the same fix."""


class Replacement(Change):
    """An overlay file in the place of upstream's ``file``."""

    sha256: Sha256
    """Of upstream's file: another one is not replaced."""


class PatchSetFile(Model):
    """``patchset.toml``."""

    revision: int = Field(ge=1)
    """Part of the wheels' local version; goes up when the set changes what users get."""
    summary: str
    after: Name | None = None
    """The set that this one stands on."""
    shared: tuple[Name, ...] = ()
    """Folders of ``patches/shared/`` that are laid over the tree like the overlay."""
    kernels: tuple[str, ...] = ()
    """Packages of ``kernels/`` that are laid over the tree, each with its C sources."""
    replace: tuple[Replacement, ...] = ()
    patch: tuple[Patch, ...] = ()


class TouchedFile(Model):
    """A file that a set changes: its sha256 before and after, None where it is not there."""

    before: Sha256 | None
    after: Sha256 | None


class Lock(Model):
    """``lock.json``: what a set's patches make of the source's files. Overlay files are not in it."""

    files: dict[str, TouchedFile]


class PatchSet:
    """A patch set on disk.

    Args:
        folder: ``patches/<package>/<set>``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        path = folder / "patchset.toml"
        if not path.is_file():
            raise PatchError(
                f"There is no patch set {self.name} for {folder.parent.name}",
                found=f"no {path}",
                expected="a folder with a patchset.toml",
                hint="`mambaport patches list` shows what there is",
            )
        self.meta = validate(PatchSetFile, read_toml(path, PatchError), path, PatchError)
        self._check_series()

    @property
    def patches(self) -> tuple[Patch, ...]:
        return self.meta.patch

    @property
    def overlays(self) -> list[Path]:
        """The folders laid over the tree: shared ones first, then the set's own."""
        shared = [patches_dir() / "shared" / name for name in self.meta.shared]
        for folder in shared:
            if not folder.is_dir():
                raise PatchError(
                    f"Patch set {self.name} names a shared folder that is not there",
                    found=f"no folder {folder}",
                    expected="every name under `shared` in patchset.toml is a folder of patches/shared/",
                )
        own = self.folder / "overlay"
        return [*shared, *([own] if own.is_dir() else [])]

    @property
    def changes(self) -> tuple[Change, ...]:
        """Replaced files, then patches."""
        return (*self.meta.replace, *self.meta.patch)

    @property
    def replaced(self) -> dict[str, Sha256]:
        """File of upstream's -> its sha256, of the files that the overlay replaces."""
        return {item.file: item.sha256 for item in self.meta.replace}

    def overlay_files(self) -> dict[str, Path]:
        """Path in the tree -> file, of all overlays."""
        files: dict[str, Path] = {}
        laid = [
            *((name, folder / name) for folder in self.overlays for name in tree_files(folder)),
            *(pair for kernel in self.meta.kernels for pair in kernel_sources(kernel).items()),
        ]
        for name, path in laid:
            if "__pycache__" in name:
                continue
            if name in files:
                raise PatchError(
                    f"Patch set {self.name} overlays {name} twice",
                    found=f"{files[name]} and {path}",
                )
            files[name] = path
        return files

    def digest(self) -> str:
        """Digest of everything that decides what the set does."""
        return data_sha256(
            {
                "revision": self.meta.revision,
                "patches": [[patch.file, file_sha256(self.folder / patch.file)] for patch in self.patches],
                "replace": self.replaced,
                "overlay": {name: file_sha256(path) for name, path in sorted(self.overlay_files().items())},
            }
        )

    def lock(self) -> Lock:
        """The set's lock.

        Raises:
            PatchError: there is none, or it is not valid.
        """
        path = self.folder / "lock.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise PatchError(
                f"Patch set {self.name} has no lock", found=f"no {path}", hint="`mambaport patches refresh`"
            ) from None
        except ValueError as fault:
            raise PatchError(
                f"{path} is not JSON", found=str(fault), hint="`mambaport patches refresh` writes it anew"
            ) from None
        return validate(Lock, data, path, PatchError)

    def touched(self) -> dict[str, TouchedFile]:
        """Every file that applying the set changes or adds: those of the lock, then the overlay's.

        Raises:
            PatchError: there is no valid lock.
        """
        added = {
            name: TouchedFile(before=self.replaced.get(name), after=file_sha256(path))
            for name, path in self.overlay_files().items()
        }
        return {**self.lock().files, **added}

    def write_lock(self, lock: Lock) -> bool:
        """Writes ``lock.json``; True when that changed it."""
        path = self.folder / "lock.json"
        text = json.dumps(lock.model_dump(), indent=1, sort_keys=True) + "\n"
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return False
        path.write_text(text, encoding="utf-8")
        return True

    def _check_series(self) -> None:
        named = [patch.file for patch in self.patches]
        there = sorted(path.name for path in self.folder.glob("*.patch"))
        if named != sorted(named) or named != there:
            raise PatchError(
                f"The series of {self.folder} does not match its folder",
                found=f"in patchset.toml: {', '.join(named) or 'none'}\n"
                f"in the folder: {', '.join(there) or 'none'}",
                expected="each *.patch file named once in patchset.toml, in the order of the numbers",
                hint="name the missing file in patchset.toml with its reason, or remove it",
            )


def kernel_sources(package: str) -> dict[str, Path]:
    """Path in the tree -> file, of a package of ``kernels/``: Python at the top, C below ``kernels/csrc/``.

    Raises:
        PatchError: ``kernels/`` has no package of that name.
    """
    root = kernels_dir()
    if not (root / package / "__init__.py").is_file():
        raise PatchError(
            f"There is no kernel package {package}",
            found=f"no {root / package}",
            expected="every name under `kernels` in patchset.toml is a package of kernels/",
        )
    python = {f"{package}/{path.name}": path for path in sorted((root / package).glob("*.py"))}
    own = root / "csrc" / package
    folders = (root / "csrc" / "common", own) if own.is_dir() else ()
    sources = {
        f"kernels/{path.relative_to(root).as_posix()}": path
        for folder in folders
        for path in sorted(folder.glob("*.[ch]"))
    }
    return {**python, **sources}


def read_source(package: str, version: str) -> Source:
    """The pinned source of a package version.

    Raises:
        UsageError: mambaport has no such version, or its source.toml is not valid.
    """
    path = patches_dir() / package / "releases" / version / "source.toml"
    if not path.is_file():
        known = ", ".join(f"{name} {number}" for name, number in known_versions())
        raise UsageError(
            f"There is no pinned source for {package} {version}", found=f"{package} {version}", expected=known
        )
    return validate(Source, read_toml(path), path)


def known_versions() -> list[tuple[str, str]]:
    """The (package, version) pairs that have a source.toml."""
    return sorted(
        (path.parent.parent.parent.name, path.parent.name)
        for path in patches_dir().glob("*/releases/*/source.toml")
    )


def all_sets(package: str, version: str) -> list[PatchSet]:
    """Every patch set of a package version, in stacking order."""
    folder = patches_dir() / package
    sets = {path.parent.name: PatchSet(path.parent) for path in folder.glob("*/patchset.toml")}
    ordered: list[PatchSet] = []
    below: str | None = None
    while following := next((item for item in sets.values() if item.meta.after == below), None):
        ordered.append(following)
        below = following.name
    if len(ordered) != len(sets):
        loose = sorted(set(sets) - {item.name for item in ordered})
        raise PatchError(
            f"The patch sets of {package} {version} are not one stack",
            found=f"{', '.join(loose)} does not stand on the others",
            expected="one set without `after`, and each other set after exactly one",
        )
    return ordered


def stack(package: str, version: str, names: tuple[str, ...]) -> list[PatchSet]:
    """The sets a profile asks for, checked to be the bottom of the stack in order.

    Raises:
        PatchError: a set is missing, or stands on one that the profile does not name before it.
    """
    sets = [PatchSet(patches_dir() / package / name) for name in names]
    below: str | None = None
    for item in sets:
        if item.meta.after != below:
            raise PatchError(
                f"Patch set {item.name} of {package} {version} stands in the wrong place",
                found=f"after {below or 'the pristine source'}",
                expected=f"after {item.meta.after or 'the pristine source'}",
                hint=f"name the sets of {package} in the profile in that order",
            )
        below = item.name
    return sets
