"""Pinned files: what mambaport fetches besides sources, each by name and sha256.

``pins/*.toml`` hold them, one file per purpose.
"""

from __future__ import annotations

from functools import cache

from mambaport.models import FileName, Model, Name, Sha256, VersionText, read_toml, validate
from mambaport.resources import pins_dir


class Pin(Model):
    """One file on the package index. Its sha256 is all that is trusted."""

    project: Name
    """The project's name on the index."""
    version: VersionText
    filename: FileName
    sha256: Sha256
    size: int
    """Bytes; tells a truncated download from a foreign one."""


class BuildRequirements(Model):
    """What a package's build may import, and nothing else."""

    pin: tuple[Pin, ...]


class BuildTools(Model):
    """The programs that a build runs, per architecture of the machine that builds."""

    x86_64: tuple[Pin, ...]
    aarch64: tuple[Pin, ...]

    def for_host(self, arch: str) -> tuple[Pin, ...]:
        """The wheels for a machine; none where the index has none for it."""
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
    """As ``--system`` calls it."""
    suite: Name
    """Debian's name for the release."""
    python: VersionText
    """CPython minor of that release."""
    packages: tuple[str, ...]
    """Debian packages of the root."""
    pin: tuple[Pin, ...]
    """Python packages, torch among them."""
    stand_ins: bool = False
    """Whether torch's CUDA libraries are stood in for by empty ones: there is no GPU to run them on."""

    @property
    def torch(self) -> str:
        """torch's version."""
        return next(pin.version for pin in self.pin if pin.project == "torch")


class Emulation(Model):
    """The systems; a profile says which are its own."""

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
