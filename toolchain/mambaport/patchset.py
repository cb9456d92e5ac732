"""One patch set: what upstream's files need changed, and the files of ours that are laid beside them.

``patches/<package>/<set>/`` has ``patchset.toml`` with the reasons, numbered patches, and an ``overlay/`` of
files that are wholly ours. A set can also bring packages of ``kernels/`` into the tree. A patch stands once,
for every release; where its text must differ, siblings stand beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypeVar

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import AfterValidator, Field, StringConstraints

from mambaport.digests import data_sha256, file_sha256, tree_files
from mambaport.errors import PatchError
from mambaport.models import Model, Name, Sha256, VersionText, read_toml, validate
from mambaport.resources import kernels_dir, patches_dir


def _specifier(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        raise ValueError(f"{text!r} is no version specifier, such as >=2.3,<3") from None
    return text


PatchFile = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[a-z0-9-]+\.patch$")]
SiblingFile = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[a-z0-9-]+\.for-[a-z0-9.-]+\.patch$")]
OverlayFolder = Annotated[str, StringConstraints(pattern=r"^overlay-[a-z0-9.-]+$")]
Releases = Annotated[str, AfterValidator(_specifier)]
"""A PEP 440 specifier of upstream's releases; empty for all of them."""


def is_for(releases: str, version: str) -> bool:
    """Whether a release fulfils a specifier. Pre-releases count as any other."""
    return SpecifierSet(releases).contains(version, prereleases=True)


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
    releases: Releases | None = None
    """The releases that the patch is for. By default those before ``upstream``, or all."""
    siblings: dict[SiblingFile, Releases] = Field(default_factory=dict)
    """The same patch in another text -> the releases that need that text."""

    @property
    def wanted(self) -> str:
        """The specifier of the releases that the patch is for."""
        if self.releases is not None:
            return self.releases
        return f"<{self.upstream}" if self.upstream else ""

    def text_for(self, version: str | None) -> str:
        """The name of the file that has the patch's text for a release."""
        fitting = [name for name, only in self.siblings.items() if version and is_for(only, version)]
        return fitting[0] if fitting else self.file


class Replacement(Change):
    """An overlay file in the place of upstream's ``file``."""

    sha256: Sha256 | dict[VersionText, Sha256]
    """Of upstream's file: another one is not replaced. One, or one for each release that has another."""

    @property
    def digests(self) -> set[str]:
        """The sha256 of each file of upstream's that is replaced."""
        return {self.sha256} if isinstance(self.sha256, str) else set(self.sha256.values())


class PatchSetFile(Model):
    """``patchset.toml``."""

    summary: str
    needs: tuple[Name, ...] = ()
    """The sets that must be applied before this one."""
    releases: Releases = ""
    """The releases that the set is for."""
    shared: tuple[Name, ...] = ()
    """Folders of ``patches/shared/`` that are laid over the tree like the overlay."""
    kernels: tuple[str, ...] = ()
    """Packages of ``kernels/`` that are laid over the tree with their C sources; ``csrc/NAME``: C alone."""
    overlays: dict[OverlayFolder, Releases] = Field(default_factory=dict)
    """Further overlay folders -> the releases for which their files go before those of ``overlay/``."""
    replace: tuple[Replacement, ...] = ()
    patch: tuple[Patch, ...] = ()


class TouchedFile(Model):
    """A file that a set changes: its sha256 before and after, None where there is no such file."""

    before: Sha256 | None
    after: Sha256 | None


L = TypeVar("L", bound=Model)
Moved = dict[str, dict[str, dict[int, int]]]
"""Patch as ``set/text`` -> file -> number of a hunk -> the line, from 1, where that hunk stands in the file
before the patch. Hunks that stand at their own line are not named."""


class Lock(Model):
    """What patches make of upstream's files. Overlay files are not part of a lock."""

    files: dict[str, TouchedFile]
    moved: Moved = Field(default_factory=dict)


class PatchSet:
    """A patch set on disk, as it is for one release.

    Args:
        folder: ``patches/<package>/<set>``.
        version: the release. None for a set that is made for one commit of a checkout.
    """

    def __init__(self, folder: Path, version: str | None = None) -> None:
        self.folder = folder
        self.name = folder.name
        self.version = version
        path = folder / "patchset.toml"
        if not path.is_file():
            raise PatchError(
                f"There is no patch set {self.name} for {folder.parent.name}",
                found=f"no {path}",
                expected="a folder with a patchset.toml",
                hint="`mambaport patches list` shows the patch sets",
            )
        self.meta = validate(PatchSetFile, read_toml(path, PatchError), path, PatchError)
        self._check_series()

    @property
    def is_for_release(self) -> bool:
        """Whether the set is for its release."""
        return self.version is None or is_for(self.meta.releases, self.version)

    @property
    def patches(self) -> tuple[Patch, ...]:
        """The patches that are for the release."""
        return tuple(
            patch for patch in self.meta.patch if self.version is None or is_for(patch.wanted, self.version)
        )

    def path(self, patch: Patch) -> Path:
        """The file with the patch's text for the release."""
        return self.folder / patch.text_for(self.version)

    @property
    def overlays(self) -> list[Path]:
        """The folders laid over the tree: shared ones first, then the set's own."""
        shared = [patches_dir() / "shared" / name for name in self.meta.shared]
        for folder in shared:
            if not folder.is_dir():
                raise PatchError(
                    f"Patch set {self.name} names a shared folder that does not exist",
                    found=f"no folder {folder}",
                    expected="every name under `shared` in patchset.toml is a folder of patches/shared/",
                )
        own = self.folder / "overlay"
        return [*shared, *([own] if own.is_dir() else [])]

    @property
    def changes(self) -> tuple[Change, ...]:
        """Replaced files, then patches."""
        return (*self.meta.replace, *self.patches)

    @property
    def replaced(self) -> dict[str, set[str]]:
        """File of upstream's that the overlay replaces -> the sha256 that it may have."""
        return {item.file: item.digests for item in self.meta.replace}

    def overlay_files(self) -> dict[str, Path]:
        """Path in the tree -> file, of all overlays.

        Raises:
            PatchError: two overlays give the same file.
        """
        files: dict[str, Path] = {}
        laid = [
            *((name, folder / name) for folder in self.overlays for name in tree_files(folder)),
            *(pair for kernel in self.meta.kernels for pair in kernel_sources(kernel).items()),
        ]
        for name, path in laid:
            if "__pycache__" in name:
                continue
            if files.get(name, path) != path:  # packages of kernels/ share their common C sources
                raise PatchError(
                    f"Patch set {self.name} overlays {name} twice",
                    found=f"{files[name]} and {path}",
                )
            files[name] = path
        for folder, releases in self.meta.overlays.items():
            if self.version is not None and is_for(releases, self.version):
                files |= {name: self.folder / folder / name for name in tree_files(self.folder / folder)}
        return files

    def digest(self) -> str:
        """Digest of everything that decides what the set does to its release."""
        return data_sha256(
            {
                "patches": [[patch.file, file_sha256(self.path(patch))] for patch in self.patches],
                "replace": {name: sorted(digests) for name, digests in self.replaced.items()},
                "overlay": {name: file_sha256(path) for name, path in sorted(self.overlay_files().items())},
            }
        )

    def lock(self) -> Lock:
        """The lock of a checkout's set, in its folder. Those of packages are in ``releases/``.

        Raises:
            PatchError: there is none, or it is not valid.
        """
        return read_lock(Lock, self.folder / "lock.json", f"Patch set {self.name}")

    def touched(self) -> dict[str, TouchedFile]:
        """Every file that applying the set changes or adds: those of the lock, then the overlay's.

        Raises:
            PatchError: there is no valid lock.
        """
        added = {
            name: TouchedFile(before=min(self.replaced.get(name, ()), default=None), after=file_sha256(path))
            for name, path in self.overlay_files().items()
        }
        return {**self.lock().files, **added}

    def write_lock(self, lock: Lock) -> bool:
        """Writes ``lock.json`` of a checkout's set; True when that changed it."""
        return write_lock(self.folder / "lock.json", lock)

    def _check_series(self) -> None:
        named = [patch.file for patch in self.meta.patch]
        siblings = [name for patch in self.meta.patch for name in patch.siblings]
        found = sorted(path.name for path in self.folder.glob("*.patch"))
        if named != sorted(named) or sorted([*named, *siblings]) != found:
            raise PatchError(
                f"The series of {self.folder} does not match its folder",
                found=f"in patchset.toml: {', '.join([*named, *siblings]) or 'none'}\n"
                f"in the folder: {', '.join(found) or 'none'}",
                expected="each *.patch file named once in patchset.toml, in the order of the numbers",
                hint="name the missing file in patchset.toml with its reason, or remove it",
            )
        for patch in self.meta.patch:
            if strays := [name for name in patch.siblings if name[:5] != patch.file[:5]]:
                raise PatchError(
                    f"{strays[0]} is named as a sibling of {patch.file} in {self.folder}",
                    expected=f"a sibling with the same number, {patch.file[:4]}-",
                )


def read_lock(model: type[L], path: Path, owner: str) -> L:
    """A lock file as ``model``.

    Raises:
        PatchError: there is no such file, or it is not valid.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PatchError(
            f"{owner} has no lock", found=f"no {path}", hint="`mambaport patches refresh`"
        ) from None
    except (ValueError, RecursionError) as fault:
        raise PatchError(
            f"{path} is not JSON", found=str(fault), hint="`mambaport patches refresh` writes it anew"
        ) from None
    return validate(model, data, path, PatchError)


def write_lock(path: Path, lock: Model) -> bool:
    """Writes a lock file; True when that changed it."""
    text = json.dumps(lock.model_dump(exclude_defaults=True), indent=1, sort_keys=True) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    return True


def kernel_sources(package: str) -> dict[str, Path]:
    """Path in the tree -> file, of a package of ``kernels/``: Python at the top, C below ``kernels/csrc/``.

    ``csrc/NAME`` names the C sources of a package alone.

    Raises:
        PatchError: ``kernels/`` has no package of that name.
    """
    root = kernels_dir()
    only_c = package.startswith("csrc/")
    own = root / package if only_c else root / "csrc" / package
    if not (own.is_dir() if only_c else (root / package / "__init__.py").is_file()):
        raise PatchError(
            f"There is no kernel package {package}",
            found=f"no {root / package}",
            expected="each of `kernels` in patchset.toml is a package of kernels/, or csrc/ and its name",
        )
    modules = () if only_c else sorted((root / package).glob("*.py"))
    python = {f"{package}/{path.name}": path for path in modules}
    folders = (root / "csrc" / "common", own) if own.is_dir() else ()
    sources = {
        f"kernels/{path.relative_to(root).as_posix()}": path
        for folder in folders
        for path in sorted(folder.rglob("*.[ch]"))
    }
    return {**python, **sources}
