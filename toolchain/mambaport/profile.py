"""Profiles: what to build, for which target. One TOML file each; see docs/reference/profile.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from mambaport.errors import UsageError
from mambaport.models import Model, Name, VersionText, read_toml, validate
from mambaport.resources import profiles_dir

Arch = Literal["aarch64", "x86_64", "host"]
PythonMinor = Annotated[str, StringConstraints(pattern=r"^3\.[0-9]+$")]
GlibcVersion = Annotated[str, StringConstraints(pattern=r"^2\.[0-9]+$")]
ToolchainName = Literal["native", "zig", "gcc-aarch64", "nvcc-native", "nvcc-cross"]
CudaVersion = Annotated[str, StringConstraints(pattern=r"^([0-9]+\.[0-9]+|host)$")]
SmName = Annotated[str, StringConstraints(pattern=r"^([0-9]{2,3}|host)$")]
TorchMinor = Annotated[str, StringConstraints(pattern=r"^([0-9]+\.[0-9]+|host)$")]
EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]


class Target(Model):
    """The machine that the wheels are for."""

    arch: Arch
    """Its architecture; ``host`` means that of the machine that builds."""
    glibc: GlibcVersion
    """The oldest glibc that it may have. No wheel may need a newer one."""
    cpu: str
    """Its oldest CPU, as compilers name it, or ``generic``. No wheel may hold an instruction above it."""
    description: str = ""
    """The devices, for people."""


class CudaTarget(Model):
    """The GPU side of a target. Each ``host`` means what the machine that builds has."""

    version: CudaVersion
    """Its CUDA. Wheels need the same major version, and no newer minor feature of it."""
    sm: tuple[SmName, ...] = Field(min_length=1)
    """Its GPUs' architectures, ``87`` for Orin: one cubin each."""
    ptx: tuple[SmName, ...] = ()
    """Architectures whose PTX is kept too, for GPUs that are not known yet."""
    flavour: Literal["l4t", "sbsa", "desktop", "host"]
    """Whose CUDA it is: Jetson's (L4T), that of an aarch64 server, or x86-64's."""
    torch: TorchMinor
    """The torch minor that is built for when none is named; an extension works with no other."""
    python: Annotated[str, StringConstraints(pattern=r"^(3\.[0-9]+|host)$")]
    """The CPython minor that is built for when none is named."""
    libraries: tuple[str, ...] = ()
    """Folders of its CUDA libraries, relative to site-packages, for the extensions' RUNPATH."""


class PythonSupport(Model):
    """The Pythons that the wheels serve."""

    minimum: PythonMinor
    """The oldest CPython minor."""
    tested: tuple[PythonMinor, ...] = ()
    """The minors that the wheels are proven on."""


class PackageChoice(Model):
    """One package of a profile, with the patch sets it gets, in order."""

    name: Name
    version: VersionText
    patches: tuple[Name, ...]


class BuildChoice(Model):
    """How the packages are compiled."""

    toolchains: tuple[ToolchainName, ...]
    """In order of preference; the first that this machine can use is taken."""
    environment: dict[EnvironmentName, str] = Field(default_factory=dict)
    """Variables for the packages' builds."""
    memory_per_job_mib: int = 1024
    """What one compiler process may need; limits the jobs that run side by side."""


class InstallChoice(Model):
    """What the wheels need in the environment they go to."""

    torch: str = ">=2.4"
    """Version specifier of the torch that must already be there. mambaport never installs torch."""
    torch_suggested: str = "torch"
    """What the owner of a target without torch is advised to give pip."""
    requires: tuple[str, ...] = ()
    """Light dependencies, installed when missing."""
    optional: tuple[str, ...] = ()
    """Used when there, never installed."""


class Variant(Model):
    """Small differences on the profile: each key replaces the profile's own section of that name."""

    summary: str
    l4t: tuple[int, ...] = ()
    """The L4T majors (``36`` is JetPack 6) of the Jetsons whose variant this is."""
    target: Target | None = None
    cuda: CudaTarget | None = None
    python: PythonSupport | None = None
    build: BuildChoice | None = None
    install: InstallChoice | None = None
    emulate: tuple[Name, ...] | None = None


class Profile(Model):
    """A target profile."""

    name: Name
    aliases: tuple[Name, ...] = ()
    summary: str
    """One line that says for whom it is."""
    target: Target
    cuda: CudaTarget | None = None
    """The target's GPU; without it no CUDA extension is built."""
    python: PythonSupport
    package: tuple[PackageChoice, ...] = Field(min_length=1)
    """The packages, in the order they are built and installed."""
    build: BuildChoice
    install: InstallChoice = InstallChoice()
    emulate: tuple[Name, ...] = ()
    """The emulated systems that stand in for the target on another machine; the first is the default."""
    variant: dict[Name, Variant] = Field(default_factory=dict)
    default_variant: Name | None = None

    @model_validator(mode="after")
    def _names_are_consistent(self) -> Profile:
        names = [package.name for package in self.package]
        if len(set(names)) != len(names):
            raise ValueError(f"package: a name stands twice in {names}")
        if self.default_variant is not None and self.default_variant not in self.variant:
            raise ValueError(f"default-variant: {self.default_variant!r} is not among {sorted(self.variant)}")
        return self

    def with_variant(self, name: str | None) -> Profile:
        """The profile with a variant's sections in place.

        Raises:
            UsageError: there is no such variant.
        """
        name = name or self.default_variant
        if name is None:
            return self
        if name not in self.variant:
            known = ", ".join(sorted(self.variant)) or "none"
            raise UsageError(
                f"Profile {self.name} has no variant {name}", found=name, expected=f"one of: {known}"
            )
        chosen = self.variant[name]
        sections = {
            key: value
            for key in ("target", "cuda", "python", "build", "install", "emulate")
            if (value := getattr(chosen, key)) is not None
        }
        return self.model_copy(update=sections)


def read_profile(path: Path) -> Profile:
    """One profile file.

    Raises:
        UsageError: the file is not there or not valid; the message names file and keys.
    """
    return validate(Profile, read_toml(path), path)


def builtin_profiles() -> list[Profile]:
    """The profiles that travel with mambaport, by name."""
    return [read_profile(path) for path in sorted(profiles_dir().glob("*.toml"))]


def find_profile(name: str) -> Profile:
    """A profile by name, by alias, or by the path of its file (``./my-board.toml``).

    Raises:
        UsageError: nothing of that name.
    """
    if name.endswith(".toml") or "/" in name:
        return read_profile(Path(name))
    profiles = builtin_profiles()
    for profile in profiles:
        if name == profile.name or name in profile.aliases:
            return profile
    raise UsageError(
        f"There is no profile {name}",
        found=name,
        expected=f"one of: {', '.join(_names(profiles))}; or the path of a profile file",
        hint="`mambaport profiles` lists them",
    )


def profile_schema() -> dict[str, Any]:
    """The JSON schema of a profile file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Profile.model_json_schema(by_alias=True),
    }


def _names(profiles: Sequence[Profile]) -> list[str]:
    return [
        profile.name + (f" ({', '.join(profile.aliases)})" if profile.aliases else "") for profile in profiles
    ]
