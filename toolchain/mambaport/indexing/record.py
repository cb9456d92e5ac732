"""What an index knows of one wheel. The record stands beside the wheel, so that later pages say the same."""

from __future__ import annotations

import json
import re
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mambaport.digests import file_sha256
from mambaport.errors import AuditError
from mambaport.indexing.provenance import Provenance
from mambaport.models import FileName, Model, Name, Sha256
from mambaport.plan import wheel_folder
from mambaport.profile import Profile, builtin_profiles
from mambaport.resources import patches_dir
from mambaport.wheels import Wheel

_FOLDER = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")


class Finding(Model):
    """A rule of the audit, and its verdict."""

    rule: str
    verdict: Literal["pass", "fail", "skip"]
    found: str
    expected: str = ""


class ProvenComponent(BaseModel):
    """One component of a proof on one path."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    path: str
    ok: bool
    input: str = ""
    error: float | None = None
    bound: float | None = None
    kernels: tuple[str, ...] = ()


class Proof(BaseModel):
    """A report of `mambaport verify --json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    python: str
    arch: str
    torch: str
    emulated: str | None = None
    gpu: str | None = None
    components: tuple[ProvenComponent, ...] = Field(min_length=1)
    wheels: dict[str, Sha256] = Field(default_factory=dict)
    """File name -> sha256 of the wheels that were proven."""


class WheelRecord(Model):
    """One wheel of an index, as plain data."""

    format: Literal[1] = 1
    filename: FileName
    sha256: Sha256
    size: int = Field(ge=0)
    name: Name
    version: str
    tag: str
    folder: str = Field(pattern=rf"^{_FOLDER.pattern}$")
    """The folder of the index: profile, variant, and torch where it is not the profile's default."""
    requires_python: str | None = None
    summary: str = ""
    unpacked: int = Field(ge=0)
    """Bytes of all files of the wheel, unpacked."""
    libraries: dict[str, int] = Field(default_factory=dict)
    """Compiled file -> bytes."""
    provenance: Provenance
    audit: tuple[Finding, ...] = ()
    diffs: dict[Sha256, str] = Field(default_factory=dict)
    """sha256 of a patch -> its text. A patch that this mambaport does not have is left out."""
    proofs: tuple[Proof, ...] = ()
    """Reports of `mambaport verify --json` on this very file."""

    @property
    def arch(self) -> str:
        return next((arch for arch in ("aarch64", "x86_64") if self.tag.endswith(arch)), "any")

    @property
    def release(self) -> str:
        """Upstream's release: the version without the local label."""
        return self.version.partition("+")[0]

    @property
    def page(self) -> str:
        """The page for people, relative to the wheel's folder of the index."""
        return f"wheels/{self.filename}.html"


def make_record(wheel: Wheel) -> WheelRecord:
    """The record of a wheel that can be read, still without its audit.

    Raises:
        AuditError: the wheel has no provenance, or one without the facts of an index, or of a profile
            whose name is an alias of mambaport's own.
    """
    try:
        provenance = Provenance.model_validate(wheel.provenance())
    except ValidationError as fault:
        raise AuditError(
            f"{wheel.path.name} does not say how it was built",
            found="\n".join(
                f"provenance.json: {error['loc']}: {error['msg']}" for error in fault.errors()[:8]
            ),
            expected="the provenance that `mambaport build` puts into every wheel",
            hint="an index has wheels of `mambaport build` only: build the wheel with it",
        ) from None
    with zipfile.ZipFile(wheel.path) as archive:
        sizes = {item.filename: item.file_size for item in archive.infolist()}
    metadata = Parser().parsestr(member(wheel.path, "METADATA").decode(errors="replace"), headersonly=True)
    profile = profile_of(provenance)
    torch = provenance.cuda.torch_minor if provenance.cuda else None
    fallback = wheel.version.endswith(".fallback")
    if profile is not None:
        folder = wheel_folder(profile, provenance.variant, torch, fallback=fallback)
    elif provenance.profile in {alias for item in builtin_profiles() for alias in item.aliases}:
        raise AuditError(
            f"{wheel.path.name} is of a profile whose name is taken",
            found=f"a profile {provenance.profile} that is not mambaport's own",
            expected="another name: the wheels would stand among those of mambaport's profile",
            hint="rename the profile, and build the wheel again",
        )
    else:
        parts = (provenance.profile, provenance.variant, torch and f"torch{torch}", fallback and "fallback")
        folder = "-".join(part for part in parts if part)
    return WheelRecord(
        filename=wheel.path.name,
        sha256=file_sha256(wheel.path),
        size=wheel.path.stat().st_size,
        name=wheel.name,
        version=wheel.version,
        tag=wheel.tag,
        folder=folder,
        requires_python=_specifier(metadata.get("Requires-Python")),
        summary=metadata.get("Summary", ""),
        unpacked=sum(sizes.values()),
        libraries={name: size for name, size in sizes.items() if name.endswith(".so")},
        provenance=provenance,
        diffs=_diffs(provenance),
    )


def profile_of(provenance: Provenance) -> Profile | None:
    """The built-in profile that a provenance names, with the variant's keys in place; None without one."""
    found = next((item for item in builtin_profiles() if item.name == provenance.profile), None)
    if found is None or (provenance.variant is not None and provenance.variant not in found.variant):
        return None
    return found.with_variant(provenance.variant)


def _specifier(text: str | None) -> str | None:
    """``Requires-Python`` where it is one: installers refuse a page with another text."""
    try:
        return text if text and SpecifierSet(text) else None
    except InvalidSpecifier:
        return None


def member(wheel: Path, name: str) -> bytes:
    """A file of a wheel's .dist-info folder, empty where it is missing. ``name`` may have one ``*``."""
    start, _, any_end = name.partition("*")
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.namelist():
            rest = item.partition(".dist-info/")[2]
            if rest == name or ("*" in name and rest.startswith(start) and rest.endswith(any_end)):
                return archive.read(item)
    return b""


def _diffs(provenance: Provenance) -> dict[str, str]:
    """The texts of a wheel's patches, where this mambaport has the same patches."""
    found = {}
    for item in provenance.patch_sets:
        for patch in item.patches:
            path = patches_dir() / provenance.package / item.name / patch.file
            if path.is_file() and file_sha256(path) == patch.sha256:
                found[patch.sha256] = path.read_text(encoding="utf-8", errors="replace")
    return found


def record_text(record: WheelRecord) -> str:
    """The record as it stands beside its wheel."""
    return json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
