"""What this machine is, read once; the stages see the plan and never the machine again."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mambaport.cuda.machine import CudaMachine, read_cuda

DEVICE_MODEL = Path("/proc/device-tree/model")
OS_RELEASE = Path("/etc/os-release")
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Program:
    """A program on PATH: where, and the first line of its ``--version``."""

    path: str
    version: str


@dataclass(frozen=True)
class Host:
    """Facts of the machine that mambaport runs on."""

    arch: str
    """As ``uname -m`` says: ``x86_64``, ``aarch64``."""
    system: str
    """The distribution's name for itself."""
    device: str | None
    """The board's model, where the device tree names one."""
    glibc: str
    python: str
    """Version of the Python that runs mambaport and drives the builds."""
    python_path: str
    cores: int
    memory_mib: int
    """All memory."""
    available_mib: int
    """Memory that can be had without swapping."""
    cc: Program | None
    gcc_aarch64: Program | None
    qemu_aarch64: Program | None
    mmdebstrap: Program | None
    network_isolation: tuple[str, ...] | None
    """The words before a command that take its network away; None where the kernel does not let us."""
    gxx_aarch64: tuple[Program, ...] = ()
    """Debian's cross g++ for aarch64: the default one first, then those of one gcc major."""
    cxx: Program | None = None
    cuda: CudaMachine = field(default_factory=CudaMachine)
    swap_mib: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def jobs(self, memory_per_job_mib: int, asked: int | None = None) -> int:
        """How many compiler processes may run side by side: by cores, by memory, and what was asked."""
        by_memory = max(1, self.available_mib // max(1, memory_per_job_mib))
        return max(1, min(asked or self.cores, by_memory))


@cache
def read_host() -> Host:
    """Reads the machine."""
    memory = _meminfo()
    return Host(
        arch=platform.machine(),
        system=_os_name(),
        device=_device(),
        glibc=platform.libc_ver()[1] or "0",
        python=platform.python_version(),
        python_path=_base_python(),
        cores=len(os.sched_getaffinity(0)),
        memory_mib=memory.get("MemTotal", 0),
        available_mib=memory.get("MemAvailable", 0),
        swap_mib=memory.get("SwapTotal", 0),
        cc=_first_program(os.environ.get("CC", ""), "cc", "gcc", "clang"),
        gcc_aarch64=program("aarch64-linux-gnu-gcc"),
        qemu_aarch64=program("qemu-aarch64-static") or program("qemu-aarch64"),
        mmdebstrap=program("mmdebstrap"),
        network_isolation=_network_isolation(),
        gxx_aarch64=tuple(
            found
            for major in ("", "-14", "-13", "-12", "-11")
            if (found := program(f"aarch64-linux-gnu-g++{major}"))
        ),
        cxx=_first_program(os.environ.get("CXX", ""), "c++", "g++", "clang++"),
        cuda=read_cuda(),
    )


def program(name: str) -> Program | None:
    """A program on PATH with its version, or None."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    first = (answer.stdout or answer.stderr).strip().splitlines()
    return Program(path, first[0] if first else "")


def _first_program(*names: str) -> Program | None:
    return next((found for name in names if name and (found := program(name))), None)


def _base_python() -> str:
    """The Python behind the virtual environment, since builds get an environment of their own."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def _meminfo() -> dict[str, int]:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines if line.endswith("kB")}


def _os_name() -> str:
    try:
        fields = dict(line.split("=", 1) for line in OS_RELEASE.read_text().splitlines() if "=" in line)
    except OSError:
        return platform.system()
    return fields.get("PRETTY_NAME", platform.system()).strip('"')


def _device() -> str | None:
    try:
        return DEVICE_MODEL.read_text().strip("\0\n ") or None
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
