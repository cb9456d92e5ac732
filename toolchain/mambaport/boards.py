"""Boards as data: the CPUs, GPUs, systems and platforms that profiles name (``profiles/boards/*.toml``).

A new board is a block in one of these files. Every stage takes the facts of CPUs, GPUs and systems from here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from mambaport.models import Model, read_toml, validate
from mambaport.resources import boards_dir

CpuName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Feature = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]


class Cpu(Model):
    """A CPU that a profile's ``[target]`` may name."""

    name: CpuName
    arch: Literal["aarch64", "x86_64"]
    features: frozenset[Feature]
    """What the CPU has beyond ARMv8.0-A with NEON, by the names of LLVM's ``-mattr``."""
    gcc: str
    """The option that selects the CPU, for gcc and clang: ``-mcpu=cortex-a72``."""
    gcc_since: int
    """The first gcc major that knows the option."""
    clang_since: int
    """The first clang major that knows the option."""
    zig: str
    """The name that zig's ``-mcpu`` takes: ``cortex_a72``."""
    qemu: str | None = None
    """The CPU that qemu-user emulates in its place; None where the CPU is not emulated."""


class _Cpus(Model):
    cpu: tuple[Cpu, ...] = Field(min_length=1)


@cache
def cpus() -> tuple[Cpu, ...]:
    """Every known CPU, in the order of the file.

    Raises:
        UsageError: the file is not valid.
    """
    path = boards_dir() / "cpus.toml"
    return validate(_Cpus, read_toml(path), path).cpu


def find_cpu(name: str, arch: str) -> Cpu:
    """The CPU of a name and an architecture.

    Raises:
        LookupError: no such CPU is known; the message has the nearest names.
    """
    known = [cpu for cpu in cpus() if cpu.arch == arch]
    for cpu in known:
        if cpu.name == name:
            return cpu
    raise LookupError(f"unknown CPU {name} for {arch}; {nearest(name, (cpu.name for cpu in known))}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names that are most like ``name``, as the end of a message; all of them where none is."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f"nearest: {', '.join(close)}"
    return f"known: {', '.join(names)}"
