"""Pinned files: everything that mambaport fetches besides sources, each by name and sha256.

``pins/*.toml`` hold them, one file per purpose.
"""

from __future__ import annotations

from functools import cache

from mambaport.models import FileName, Model, Name, Sha256, VersionText, read_toml, validate
from mambaport.resources import pins_dir


class Pin(Model):
    """One file on the package index. Only its sha256 is trusted."""

    project: Name
    """The project's name on the index."""
    version: VersionText
    filename: FileName
    sha256: Sha256
    size: int
    """Bytes; distinguishes a truncated download from another file."""
    license: str = ""
    """The SPDX expression of a build requirement's licence."""


class BuildRequirements(Model):
    """All Python packages that a package's build may import."""

    pin: tuple[Pin, ...]


class BuildTools(Model):
    """The programs that a build runs, for each architecture of the machine that builds."""

    x86_64: tuple[Pin, ...]
    aarch64: tuple[Pin, ...]

    def for_host(self, arch: str) -> tuple[Pin, ...]:
        """The wheels for a machine; empty for an architecture that the index has no wheels for."""
        return {"x86_64": self.x86_64, "aarch64": self.aarch64}.get(arch, ())


class Zig(Model):
    """The C cross compiler from the package index: one wheel per host architecture."""

    version: VersionText
    x86_64: Pin
    aarch64: Pin

    def for_host(self, arch: str) -> Pin | None:
        return {"x86_64": self.x86_64, "aarch64": self.aarch64}.get(arch)


class EmulatedSystem(Model):
    """An aarch64 system that wheels are proven on: a Debian root and the Python packages in it."""

    name: Name
    """The name that ``--system`` takes."""
    suite: Name
    """Debian's name for the release."""
    python: VersionText
    """The CPython minor of that Debian release."""
    packages: tuple[str, ...]
    """Debian packages of the root."""
    pin: tuple[Pin, ...]
    """Python packages, torch among them."""
    stand_ins: bool = False
    """Whether empty libraries replace torch's CUDA libraries: the emulated system has no GPU."""

    @property
    def torch(self) -> str:
        """torch's version."""
        return next(pin.version for pin in self.pin if pin.project == "torch")


class Emulation(Model):
    """All emulated systems; a profile names those that stand in for its target."""

    system: tuple[EmulatedSystem, ...]


@cache
def build_requirements() -> BuildRequirements:
    path = pins_dir() / "build-requirements.toml"
    return validate(BuildRequirements, read_toml(path), path)


@cache
def build_tools() -> BuildTools:
    path = pins_dir() / "build-tools.toml"
    return validate(BuildTools, read_toml(path), path)


@cache
def zig() -> Zig:
    path = pins_dir() / "zig.toml"
    return validate(Zig, read_toml(path), path)


@cache
def emulation() -> Emulation:
    path = pins_dir() / "emulation.toml"
    return validate(Emulation, read_toml(path), path)
