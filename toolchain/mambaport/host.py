"""Facts of this machine. Stages read them from the plan alone."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from mambaport.cuda.machine import CudaMachine, read_cuda
from mambaport.digests import file_sha256
from mambaport.errors import HostError
from mambaport.settings import Settings, read_settings

DEVICE_MODEL = Path("/proc/device-tree/model")
OS_RELEASE = Path("/etc/os-release")
MEMINFO = Path("/proc/meminfo")
# The first lines of --version: "gcc (Debian 12.2.0-14) 12.2.0" and "Debian clang version 14.0.6".
_GCC = re.compile(r"\S*(?:gcc|g\+\+|cc|c\+\+)\S* \(.*?\) (\d+)\.")
_CLANG = re.compile(r"\bclang version (\d+)\.")


@dataclass(frozen=True)
class Program:
    """A program on PATH: its path, and the first line that ``--version`` prints."""

    path: str
    version: str

    @property
    def family(self) -> str | None:
        """``gcc`` or ``clang``; None for another program."""
        return "gcc" if _GCC.match(self.version) else "clang" if _CLANG.search(self.version) else None

    @property
    def major(self) -> int | None:
        """The major version of a gcc or clang."""
        found = _GCC.match(self.version) or _CLANG.search(self.version)
        return int(found[1]) if found else None

    @property
    def sha256(self) -> str:
        """Digest of the program's file: two different compilers can print the same version."""
        return _file_sha256(os.path.realpath(self.path))

    @property
    def identity(self) -> str:
        """The facts that decide a compiler's output: its version, and the digest of its file."""
        return f"{self.version} ({self.sha256[:16]})"


@cache
def _file_sha256(path: str) -> str:
    try:
        return file_sha256(Path(path))
    except OSError:
        return "0" * 64


@dataclass(frozen=True)
class Host:
    """Facts of the machine that mambaport runs on."""

    arch: str
    """The output of ``uname -m``: ``x86_64``, ``aarch64``."""
    system: str
    """The distribution's name and version, from /etc/os-release."""
    device: str | None
    """The board's model; None where the device tree names no model."""
    glibc: str
    python: str
    """Version of the Python that runs mambaport and drives the builds."""
    python_path: str
    cores: int
    memory_mib: int
    """All memory, in MiB."""
    available_mib: int
    """Memory that programs can use without swapping, in MiB."""
    cc: Program | None
    """The C compiler of native builds: the one that CC names, else cc, gcc or clang."""
    gcc_aarch64: Program | None
    qemu_aarch64: Program | None
    mmdebstrap: Program | None
    network_isolation: tuple[str, ...] | None
    """The words that, put before a command, cut it off from the network; None where the kernel forbids it."""
    gxx_aarch64: tuple[Program, ...] = ()
    """Debian's cross g++ for aarch64: the default version first, then the newest gcc major first."""
    gccs_aarch64: tuple[Program, ...] = ()
    """The cross gcc beside each of these g++."""
    cxx: Program | None = None
    cuda: CudaMachine = field(default_factory=CudaMachine)
    swap_mib: int = 0
    path: str = os.defpath
    """PATH of the builds."""
    virtual_env: Path | None = None
    """The active virtual environment."""
    bits: int = 64
    """Pointer size, 64 or 32, of the Python that runs mambaport."""

    def gcc_of(self, gxx: Program) -> Program | None:
        """The cross gcc of the same version as a cross g++, from the same folder."""
        path = str(Path(gxx.path).with_name(Path(gxx.path).name.replace("g++", "gcc")))
        return next((found for found in self.gccs_aarch64 if found.path == path), None)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "virtual_env": str(self.virtual_env) if self.virtual_env else None}


class ThisMachine(Host):
    """The facts of this machine, each read when it is first needed.

    Args:
        settings: the compilers and PATH that the user has set.
        facts: values that replace facts of the machine.
    """

    def __init__(self, settings: Settings | None = None, **facts: Any) -> None:
        self.__dict__.update(facts, _settings=settings or read_settings())

    _settings: Settings

    @cached_property
    def arch(self) -> str:
        return platform.machine()

    @cached_property
    def system(self) -> str:
        return _os_name()

    @cached_property
    def bits(self) -> int:
        return 64 if sys.maxsize > 2**32 else 32

    @cached_property
    def device(self) -> str | None:
        return _device()

    @cached_property
    def glibc(self) -> str:
        return platform.libc_ver()[1] or "0"

    @cached_property
    def python(self) -> str:
        return platform.python_version()

    @cached_property
    def python_path(self) -> str:
        return _base_python()

    @cached_property
    def cores(self) -> int:
        return len(os.sched_getaffinity(0))

    @cached_property
    def memory_mib(self) -> int:
        return self._memory.get("MemTotal", 0)

    @cached_property
    def available_mib(self) -> int:
        return self._memory.get("MemAvailable", 0)

    @cached_property
    def swap_mib(self) -> int:
        return self._memory.get("SwapTotal", 0)

    @cached_property
    def _memory(self) -> dict[str, int]:
        return _meminfo()

    @cached_property
    def cc(self) -> Program | None:
        return _compiler("CC", self._settings.cc, "cc", "gcc", "clang")

    @cached_property
    def cxx(self) -> Program | None:
        return _compiler("CXX", self._settings.cxx, "c++", "g++", "clang++")

    @cached_property
    def gcc_aarch64(self) -> Program | None:
        return program("aarch64-linux-gnu-gcc")

    @cached_property
    def gxx_aarch64(self) -> tuple[Program, ...]:
        names = (f"aarch64-linux-gnu-g++{major}" for major in ("", "-14", "-13", "-12", "-11"))
        return tuple(found for name in names if (found := program(name)))

    @cached_property
    def gccs_aarch64(self) -> tuple[Program, ...]:
        paths = (Path(found.path) for found in self.gxx_aarch64)
        names = (str(path.with_name(path.name.replace("g++", "gcc"))) for path in paths)
        return tuple(found for name in names if (found := program(name)))

    @cached_property
    def qemu_aarch64(self) -> Program | None:
        return program("qemu-aarch64-static") or program("qemu-aarch64")

    @cached_property
    def mmdebstrap(self) -> Program | None:
        return program("mmdebstrap")

    @cached_property
    def network_isolation(self) -> tuple[str, ...] | None:
        return _network_isolation()

    @cached_property
    def cuda(self) -> CudaMachine:
        return read_cuda()

    @cached_property
    def path(self) -> str:
        return self._settings.path

    @cached_property
    def virtual_env(self) -> Path | None:
        return self._settings.virtual_env


@cache
def read_host() -> Host:
    """This machine. Each fact is read when it is first used."""
    return ThisMachine()


def program(name: str) -> Program | None:
    """A program on PATH with its version; None where PATH has no such program."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    first = (answer.stdout or answer.stderr).strip().splitlines()
    return Program(path, first[0] if first else "")


def _compiler(variable: str, named: str, *names: str) -> Program | None:
    """The compiler that a variable names, else the first of ``names`` on PATH.

    Raises:
        HostError: the variable names a program that does not run.
    """
    if not named:
        return next((found for name in names if (found := program(name))), None)
    found = program(named)
    if found is None:
        raise HostError(
            f"{variable} names no compiler that runs on this machine",
            found=f"{variable}={named}",
            expected="one program, by name or path, without options",
            hint=f"correct {variable}, or unset it: then {', '.join(names)} are tried",
        )
    return found


def _base_python() -> str:
    """The Python that the virtual environment was made from: a build makes another environment with it."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def _meminfo() -> dict[str, int]:
    try:
        lines = MEMINFO.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines if line.endswith("kB")}


def _os_name() -> str:
    try:
        fields = dict(
            line.split("=", 1) for line in OS_RELEASE.read_text(errors="replace").splitlines() if "=" in line
        )
    except OSError:
        return platform.system()
    return fields.get("PRETTY_NAME", platform.system()).strip('"')


def _device() -> str | None:
    try:
        return DEVICE_MODEL.read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def _network_isolation() -> tuple[str, ...] | None:
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    for words in ((unshare, "--net"), (unshare, "--map-root-user", "--net")):
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
            return words
    return None
