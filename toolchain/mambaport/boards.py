"""Boards as data: the CPUs, GPUs, systems and platforms that profiles name (``profiles/boards/*.toml``).

A new board is a block in one of these files. Every stage takes the facts of CPUs, GPUs and systems from here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from mambaport.models import Model, read_toml, validate
from mambaport.resources import boards_dir

BoardName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$")]
Minor = Annotated[str, StringConstraints(pattern=r"^[0-9]+\.[0-9]+$")]
Sm = Annotated[str, StringConstraints(pattern=r"^[0-9]{2,3}$")]
Arch = Literal["aarch64", "x86_64"]


class Cpu(Model):
    """A CPU that a profile's ``[target]`` may name."""

    name: BoardName
    arch: Arch
    features: frozenset[BoardName]
    """What the CPU has beyond ARMv8.0-A with NEON, by the names of LLVM's ``-mattr``."""
    gcc: str
    """The option that selects the CPU, for gcc and clang: ``-mcpu=cortex-a72``."""
    march: str
    """The architecture that the CPU has, for compilers that do not know the CPU: ``armv8.2-a+fp16``."""
    gcc_since: int
    """The first gcc major that knows the option."""
    clang_since: int
    """The first clang major that knows the option."""
    zig: str
    """The name that zig's ``-mcpu`` takes: ``cortex_a72``."""
    qemu: str | None = None
    """The CPU that qemu-user emulates in its place; None where the CPU is not emulated."""

    def option(self, family: str | None, major: int | None) -> str:
        """The option for a compiler: the CPU's own; for a compiler that is older, its architecture's.

        Args:
            family: ``gcc`` or ``clang``.
        """
        since = {"gcc": self.gcc_since, "clang": self.clang_since}.get(family or "")
        known = since is None or major is None or major >= since
        return self.gcc if known else f"-march={self.march}"


class System(Model):
    """A distribution."""

    name: BoardName
    glibc: Minor
    libstdcxx: int
    """N of the newest ``GLIBCXX_3.4.N`` that its libstdc++ has."""


class Gpu(Model):
    """A GPU architecture that nvcc compiles for."""

    sm: Sm
    name: str
    """The devices, for people."""
    jetson: bool = False
    since: Minor
    """The first CUDA that compiles for the architecture."""
    until: Minor | None = None
    """The last CUDA that compiles for the architecture."""

    def compiled_by(self, cuda: str) -> bool:
        """Whether a CUDA version (``12.6``) compiles for the architecture."""
        return minor_key(self.since) <= minor_key(cuda) <= minor_key(self.until or cuda)


class Platform(Model):
    """What a device's system has: JetPack 6, or DGX OS 7."""

    name: BoardName
    jetpack: int | None = None
    """JetPack's major, on a Jetson."""
    l4t: tuple[int, ...] = ()
    """The majors of Jetson Linux that are this JetPack."""
    system: BoardName
    arch: Arch
    cuda: Minor
    flavour: Literal["l4t", "sbsa", "desktop"]
    sm: tuple[Sm, ...]
    """The architectures of the GPUs that the platform runs on."""

    @property
    def glibc(self) -> str:
        return next(item.glibc for item in boards().system if item.name == self.system)

    @property
    def cuda_major(self) -> int:
        return minor_key(self.cuda)[0]

    @property
    def supported(self) -> bool:
        """Whether the platform's CUDA is new enough for the packages."""
        return minor_key(self.cuda) >= minor_key(boards().least_cuda)


class _Cpus(Model):
    cpu: tuple[Cpu, ...] = Field(min_length=1)


class Boards(Model):
    """``platforms.toml``."""

    least_cuda: Minor
    """The oldest CUDA that the packages compile with."""
    system: tuple[System, ...]
    platform: tuple[Platform, ...]
    gpu: tuple[Gpu, ...]

    @model_validator(mode="after")
    def _names_are_known(self) -> Boards:
        systems, sms = {item.name for item in self.system}, {item.sm for item in self.gpu}
        for item in self.platform:
            if item.system not in systems:
                raise ValueError(f"platform {item.name}: unknown system {item.system}")
            if unknown := set(item.sm) - sms:
                raise ValueError(f"platform {item.name}: unknown SM {', '.join(sorted(unknown))}")
        return self


@cache
def cpus() -> tuple[Cpu, ...]:
    """Every known CPU, in the order of the file.

    Raises:
        UsageError: the file is not valid.
    """
    path = boards_dir() / "cpus.toml"
    return validate(_Cpus, read_toml(path), path).cpu


@cache
def boards() -> Boards:
    """Systems, platforms and GPUs.

    Raises:
        UsageError: the file is not valid.
    """
    path = boards_dir() / "platforms.toml"
    return validate(Boards, read_toml(path), path)


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


def find_platform(name: str) -> Platform:
    """The platform of a name.

    Raises:
        LookupError: no such platform is known; the message has the nearest names.
    """
    for platform in boards().platform:
        if platform.name == name:
            return platform
    known = (platform.name for platform in boards().platform)
    raise LookupError(f"unknown platform {name}; {nearest(name, known)}")


def find_gpu(sm: str) -> Gpu:
    """The GPU architecture of a number such as ``87``.

    Raises:
        LookupError: no such architecture is known; the message has the nearest numbers.
    """
    for gpu in boards().gpu:
        if gpu.sm == sm:
            return gpu
    raise LookupError(f"unknown SM {sm}; {nearest(sm, (gpu.sm for gpu in boards().gpu))}")


def jetpack_of(l4t_major: int) -> Platform | None:
    """The JetPack that a major of Jetson Linux belongs to; None for an unknown major."""
    return next((item for item in boards().platform if l4t_major in item.l4t), None)


def is_jetson(sm: str) -> bool:
    """Whether an SM is that of a Jetson's GPU."""
    return any(gpu.jetson for gpu in boards().gpu if gpu.sm == sm)


def cubin_runs_on(cubin: str, sm: str) -> bool:
    """Whether a cubin runs on a GPU; both are SMs.

    A cubin runs on its own architecture and on the later minors of its major.
    A cubin for a desktop's GPU is not certain to run on a Jetson's, nor the reverse.
    """
    if cubin == sm:
        return True
    desktop = not (is_jetson(sm) or is_jetson(cubin))
    return desktop and cubin[:-1] == sm[:-1] and int(cubin) < int(sm)


def runs_on(sm: str, cubins: Iterable[str], ptx: Iterable[str]) -> bool:
    """Whether a GPU runs one of the cubins, or what the driver compiles from the PTX of an older one."""
    return any(cubin_runs_on(item, sm) for item in cubins) or any(int(item) <= int(sm) for item in ptx)


def newest_libstdcxx(glibc: str) -> int:
    """N of the newest ``GLIBCXX_3.4.N`` on a system with this glibc."""
    systems = sorted(boards().system, key=lambda item: minor_key(item.glibc))
    older = [item.libstdcxx for item in systems if minor_key(item.glibc) <= minor_key(glibc)]
    return older[-1] if older else systems[0].libstdcxx


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names that are most like ``name``, as the end of a message; all of them where none is."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"nearest: {', '.join(close)}"
    return f"known: {', '.join(names)}"


def minor_key(version: str) -> tuple[int, ...]:
    """A version such as ``12.6`` as numbers, to compare."""
    return tuple(int(part) for part in version.split("."))
