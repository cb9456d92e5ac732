"""What the wheels may hold, as data: ``kernels/wheels.toml``."""

from __future__ import annotations

from functools import cache
from typing import Annotated

from pydantic import Field, StringConstraints

from mambaport.models import Model, Name, read_toml, validate
from mambaport.resources import kernels_dir

Module = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]*$")]


class WheelContents(Model):
    """What one package's wheel installs beside its ``.dist-info``."""

    package: Name
    owns: tuple[Module, ...] = Field(min_length=1)
    """Modules and packages at the top of site-packages."""


class Level(Model):
    """Kernels for CPUs above the target's, chosen at run time."""

    section: Annotated[str, StringConstraints(pattern=r"^mambaport_[a-z0-9_]+$")]
    """The ELF section that holds them, and no other code."""
    features: frozenset[str] = Field(min_length=1)
    """What they may use beyond the target's CPU, by the names of LLVM's ``-mattr``."""
    guard: str
    """The C function that asks the CPU before a kernel of the section is called."""


class Contents(Model):
    """``kernels/wheels.toml``."""

    wheel: tuple[WheelContents, ...]
    level: tuple[Level, ...] = ()


@cache
def contents() -> Contents:
    """The data of ``kernels/wheels.toml``.

    Raises:
        UsageError: the file is not valid; the message names the keys.
    """
    path = kernels_dir() / "wheels.toml"
    return validate(Contents, read_toml(path), path)


def owned_modules(package: str) -> tuple[str, ...]:
    """The top-level modules of a package's wheel; for a package that is not ours, the module of its name."""
    found = next((item.owns for item in contents().wheel if item.package == package), None)
    return found or (package.replace("-", "_"),)
