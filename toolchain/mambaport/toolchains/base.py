"""What every toolchain gives."""

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
    """gcc and clang -> the oldest major that the kernels are compiled and tested with."""
    path = kernels_dir() / "compilers.toml"
    read = validate(_Compilers, read_toml(path), path)
    return {"gcc": int(read.gcc.oldest), "clang": int(read.clang.oldest)}


@dataclass(frozen=True)
class Compiler:
    """How a package's build calls the C compiler."""

    cc: str
    """One or several words."""
    cflags: str
    environment: tuple[tuple[str, str], ...] = ()


class CudaCompiler(Protocol):
    """The CUDA side of a toolchain: nvcc with a C++ compiler for the target. The plan chooses the nvcc."""

    @property
    def native(self) -> bool:
        """Whether it compiles for the machine that it runs on."""

    def cxx(self, host: Host, newest: int | None = None) -> Program | None:
        """The C++ compiler, for an nvcc that accepts gcc up to the major ``newest``; None where none fits."""

    def install(self, newest: int | None) -> str:
        """The command that brings such a C++ compiler."""


class Toolchain(Protocol):
    """A C compiler for a target."""

    @property
    def cuda(self) -> CudaCompiler | None:
        """Its CUDA compiler; None where it compiles C alone."""

    @property
    def name(self) -> str:
        """As profiles and ``--toolchain`` call it."""

    def lacks(self, host: Host, goal: Goal) -> str | None:
        """Why it cannot do the work on this machine, with the hint: no compiler, or one that is too old. None
        when it can."""

    def pins(self, host: Host) -> tuple[Pin, ...]:
        """What must be fetched for it."""

    def identity(self, host: Host) -> dict[str, str]:
        """What decides its output: part of the build key and of the provenance."""

    def glibc(self, host: Host, goal: Goal) -> str:
        """The newest glibc that its output may need: the target's, or its own if it cannot choose."""

    def compiler(self, host: Host, goal: Goal, tools: Path | None, scratch: Path) -> Compiler:
        """How to call it. ``tools`` is where its pins are unpacked; ``scratch`` takes caches."""


def gcc_flags(goal: Goal, program: Program) -> str:
    """The option that keeps a gcc or clang at or below the target's CPU."""
    return find_cpu(goal.cpu, goal.arch).option(program.family, program.major)


def too_old(program: Program) -> str | None:
    """Why a compiler cannot compile the kernels; None where it can, or where its version is not known."""
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
