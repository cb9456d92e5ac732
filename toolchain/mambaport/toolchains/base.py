"""The interfaces of a toolchain, and helpers that toolchains share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from mambaport.boards import find_cpu
from mambaport.goal import Goal
from mambaport.host import Host, Program
from mambaport.models import Model, read_toml, validate
from mambaport.pins import Pin
from mambaport.resources import kernels_dir


class _Oldest(Model):
    oldest: str


class _Compilers(Model):
    """``kernels/compilers.toml``."""

    gcc: _Oldest
    clang: _Oldest
    zig: _Oldest


@cache
def oldest_compilers() -> Mapping[str, int]:
    """``gcc`` and ``clang`` -> the oldest major version that the kernels support."""
    path = kernels_dir() / "compilers.toml"
    read = validate(_Compilers, read_toml(path), path)
    return {"gcc": int(read.gcc.oldest), "clang": int(read.clang.oldest)}


@dataclass(frozen=True)
class Compiler:
    """How a package's build calls the C compiler."""

    cc: str
    """The compiler's command: one word or several."""
    cflags: str
    environment: tuple[tuple[str, str], ...] = ()


class CudaCompiler(Protocol):
    """The CUDA side of a toolchain: the host C++ compiler for nvcc. The plan chooses nvcc itself."""

    @property
    def native(self) -> bool:
        """Whether the compiler's target is the machine that the compiler runs on."""

    def cxx(self, host: Host, newest: int | None = None) -> Program | None:
        """The C++ compiler for an nvcc that accepts gcc up to major ``newest``; None where none fits."""

    def install(self, newest: int | None) -> str:
        """The command that installs such a C++ compiler."""


class Toolchain(Protocol):
    """A C compiler for a target."""

    @property
    def cuda(self) -> CudaCompiler | None:
        """The CUDA compiler; None for a toolchain that compiles C alone."""

    @property
    def name(self) -> str:
        """The toolchain's name in profiles and for ``--toolchain``."""

    def lacks(self, host: Host, goal: Goal) -> str | None:
        """Why this machine cannot use the toolchain, with the hint; None where the toolchain can be used."""

    def pins(self, host: Host) -> tuple[Pin, ...]:
        """The pinned files that the toolchain needs."""

    def identity(self, host: Host) -> dict[str, str]:
        """The facts that decide the compiled bytes: part of the build key and of the provenance."""

    def glibc(self, host: Host, goal: Goal) -> str:
        """The newest glibc that compiled files may need: the target's; for a toolchain that cannot choose the
        glibc, also this machine's."""

    def compiler(self, host: Host, goal: Goal, tools: Path | None, scratch: Path) -> Compiler:
        """How a build calls the C compiler.

        Args:
            tools: the folder of the unpacked pins
            scratch: a folder for caches
        """


def gcc_flags(goal: Goal, program: Program) -> str:
    """The option that keeps a gcc or clang at or below the target's CPU."""
    return find_cpu(goal.cpu, goal.arch).option(program.family, program.major)


def too_old(program: Program) -> str | None:
    """Why a compiler is too old for the kernels; None where it is not, or where its version is unknown."""
    least = oldest_compilers().get(program.family or "")
    if least is None or program.major is None or program.major >= least:
        return None
    family = program.family
    return f"{program.path} is {family} {program.major}, and the kernels need {family} {least} or newer"


# The loader maps segments, not sections. The audit reads an executable segment whole: data stays out of it.
SEPARATE_CODE = (("LDFLAGS", "-Wl,-z,separate-code"),)


def newer_glibc(one: str, other: str) -> str:
    """The newer of two versions such as ``2.28`` and ``2.36``."""
    return max(one, other, key=lambda text: [int(part) for part in text.split(".")])
