"""Upstream's packages and releases as data, and which patch sets go onto a release.

``patches/<package>/package.toml`` has what no release changes, and the order of the patch sets.
``patches/<package>/releases/<version>/`` has ``source.toml`` with the pins, and ``lock.json`` with what the
patches do to that release. ``patches/lines.toml`` says which releases of the packages belong together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.version import Version
from pydantic import Field

from mambaport.boards import nearest
from mambaport.digests import data_sha256
from mambaport.errors import PatchError, UsageError
from mambaport.models import Model, Name, Sha256, VersionText, read_toml, validate
from mambaport.patchset import Lock, PatchSet, read_lock
from mambaport.pins import Pin
from mambaport.profile import builtin_profiles
from mambaport.resources import patches_dir


class Archive(Pin):
    """One pinned archive, and which of its files belong to the tree."""

    strip: str
    """The folder inside the archive that becomes the tree's root."""
    only: tuple[str, ...] = ()
    """Patterns of the files taken; all when empty."""
    exclude: tuple[str, ...] = ()
    """Patterns of the files left out."""
    why: str = ""
    """Why this archive is needed, where that is not obvious."""


class PackageFacts(Model):
    """What holds for every release of a package."""

    local_version_variable: str
    """The variable in which the package's setup.py takes a local version label."""
    fallback_variable: str
    """The variable that builds the package without kernels, and at run time forces pure PyTorch."""
    license: str
    """SPDX expression."""
    homepage: str


class Published(Model):
    """A published revision: release -> digest of everything that mambaport adds to the release."""

    revision: int = Field(ge=1)
    digests: dict[VersionText, Sha256]


class PackageFile(PackageFacts):
    """``package.toml``."""

    revision: int = Field(ge=1)
    """Part of the wheels' local version. Raised when the content of the wheels changes after wheels of this
    revision were published."""
    sets: tuple[Name, ...]
    """The patch sets in the order in which they are applied, each after the sets that it needs."""
    published: Published | None = None
    """The newest revision that has published wheels."""


class ReleaseFile(Model):
    """``source.toml``."""

    epoch: int
    """SOURCE_DATE_EPOCH of everything built from this release: the time of upstream's release, in seconds
    since 1970."""
    archive: tuple[Archive, ...] = Field(min_length=1)


class Source(PackageFacts, ReleaseFile):
    """The pristine source of one release: one tree, made of one archive or several."""

    package: Name
    version: VersionText

    @property
    def origins(self) -> dict[str, str]:
        """sha256 of an archive -> where it comes from, and what of it is taken, in a sentence or two."""
        found = {}
        for item in self.archive:
            taken = f", {', '.join(item.only)} alone" if item.only else ""
            found[item.sha256] = (
                f"{item.project} {item.version} on the package index{taken}. {item.why}".strip()
            )
        return found


class ReleaseLock(Model):
    """``lock.json`` of a release: for each combination of sets that a profile uses, what its patches do."""

    combinations: dict[str, Lock]


# Releases -------------------------------------------------------------------------------------------------


def release_folder(package: str, version: str) -> Path:
    """The folder of a release's pins and lock."""
    return patches_dir() / package / "releases" / version


def known_versions() -> list[tuple[str, str]]:
    """The (package, version) pairs that have a source.toml: by package, then the oldest release first."""
    found = [
        (path.parent.parent.parent.name, path.parent.name)
        for path in patches_dir().glob("*/releases/*/source.toml")
    ]
    return sorted(found, key=lambda item: (item[0], Version(item[1])))


def read_package(package: str) -> PackageFile:
    """What holds for every release of a package.

    Raises:
        UsageError: there is no such package, or its package.toml is not valid.
    """
    path = patches_dir() / package / "package.toml"
    if not path.is_file():
        known = [item.parent.name for item in patches_dir().glob("*/package.toml")]
        raise UsageError(
            f"There are no patch sets for {package}",
            found=package,
            expected=nearest(package, known),
            hint="`mambaport patches list` names the packages",
        )
    return validate(PackageFile, read_toml(path), path)


def read_source(package: str, version: str) -> Source:
    """The pinned source of a release.

    Raises:
        UsageError: there are no patches for that release, or a file is not valid.
    """
    path = release_folder(package, version) / "source.toml"
    if not path.is_file():
        known = [f"{name} {number}" for name, number in known_versions()]
        same = [item for item in known if item.startswith(f"{package} ")]
        raise UsageError(
            f"There is no pinned source for {package} {version}",
            found=f"{package} {version}",
            expected=f"one of: {', '.join(same or known)}",
            hint=f"take one of these; `mambaport patches new {version} -p {package}` begins another",
        )
    pins = validate(ReleaseFile, read_toml(path), path)
    facts = read_package(package).model_dump(include=set(PackageFacts.model_fields))
    return Source(package=package, version=version, **facts, **pins.model_dump())


# Patch sets -----------------------------------------------------------------------------------------------


def all_sets(package: str, version: str) -> list[PatchSet]:
    """Every patch set that is for a release, in the order of application.

    Raises:
        PatchError: a set is not in the order of package.toml, or stands before one that it needs.
    """
    folder = patches_dir() / package
    order = read_package(package).sets
    found = sorted(path.parent.name for path in folder.glob("*/patchset.toml"))
    if sorted(order) != found:
        raise PatchError(
            f"The patch sets of {package} are not those that package.toml orders",
            found=f"folders: {', '.join(found) or 'none'}",
            expected=f"sets: {', '.join(order) or 'none'} (package.toml)",
            hint="name each folder with a patchset.toml once, after the sets that it needs",
        )
    sets = [PatchSet(folder / name, version) for name in order]
    below: set[str] = set()
    for item in sets:
        if missing := [name for name in item.meta.needs if name not in below]:
            raise PatchError(
                f"Patch set {item.name} of {package} stands before a set that it needs",
                found=f"{missing[0]} is {'later in the order' if missing[0] in order else 'no patch set'}",
                expected=f"{', '.join(item.meta.needs)} before {item.name}, under `sets` in package.toml",
                hint="correct `sets` in package.toml, or `needs` in the set's patchset.toml",
            )
        below.add(item.name)
    return [item for item in sets if item.is_for_release]


def choose_sets(package: str, version: str, names: Sequence[str]) -> list[PatchSet]:
    """The sets named and all that they need, in the order of application.

    Raises:
        PatchError: there is no such set for that release.
    """
    sets = all_sets(package, version)
    known = {item.name: item for item in sets}
    wanted: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        if name not in known:
            raise PatchError(
                f"There is no patch set {name} for {package} {version}",
                found=name,
                expected=f"one of: {', '.join(known)}",
                hint="`mambaport patches list` shows the patch sets",
            )
        if name not in wanted:
            wanted.add(name)
            queue += known[name].meta.needs
    return [item for item in sets if item.name in wanted]


def combination(sets: Iterable[PatchSet]) -> str:
    """The name of a combination of sets in a release's lock: ``portable+cpu``."""
    return "+".join(item.name for item in sets)


def combinations(package: str, version: str) -> dict[str, list[PatchSet]]:
    """The combinations of sets that a release's lock holds: those of the built-in profiles, and all sets."""
    found = [all_sets(package, version)]
    profiles = [item for profile in builtin_profiles() for item in (profile, *profile.variant.values())]
    for profile in profiles:
        found += [
            choose_sets(package, version, item.patches) for item in profile.package if item.name == package
        ]
    return {combination(sets): sets for sets in found}


def read_release_lock(package: str, version: str) -> ReleaseLock:
    """The lock of a release.

    Raises:
        PatchError: the lock does not exist, or is not valid.
    """
    return read_lock(ReleaseLock, release_folder(package, version) / "lock.json", f"{package} {version}")


def lock_for(package: str, version: str, sets: Sequence[PatchSet]) -> Lock | None:
    """The lock of a combination of sets; None for a combination that no built-in profile uses.

    Raises:
        PatchError: the release has no lock, because not every patch fits the release yet.
    """
    return read_release_lock(package, version).combinations.get(combination(sets))


def content_digest(package: str, version: str) -> str:
    """Digest of everything that mambaport adds to a release, kernels included."""
    return data_sha256([[item.name, item.digest()] for item in all_sets(package, version)])


def revision_faults(package: str) -> list[str]:
    """The releases whose content changed since wheels of the package's revision were published, in words."""
    meta = read_package(package)
    if meta.published is None or meta.revision > meta.published.revision:
        return []
    if meta.revision < meta.published.revision:
        return [
            f"revision {meta.revision} of {package} is older than the published {meta.published.revision}"
        ]
    return [
        f"{package} {version}: what users get changed since revision {meta.revision} was published"
        for version, digest in meta.published.digests.items()
        if (package, version) in known_versions() and content_digest(package, version) != digest
    ]
