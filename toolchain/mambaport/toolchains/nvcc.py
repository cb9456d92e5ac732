"""nvcc with a host compiler: this machine's C++ compiler, or Debian's cross g++ for aarch64.

The gcc of the same version as that g++ compiles the C kernels of the wheel. The plan chooses nvcc and the
torch to compile for (:mod:`mambaport.cuda.resolve`).
"""

from __future__ import annotations

import shlex
from pathlib import Path

from mambaport.goal import Goal
from mambaport.host import Host, Program
from mambaport.pins import Pin
from mambaport.toolchains.base import SEPARATE_CODE, Compiler, CudaCompiler, gcc_flags, newer_glibc, too_old


class _NativeCuda:
    native = True

    def cxx(self, host: Host, newest: int | None = None) -> Program | None:
        return host.cxx if host.cxx and _fits(host.cxx, newest) else None

    def install(self, newest: int | None) -> str:
        if newest is None:
            return "sudo apt-get install g++"
        return f"sudo apt-get install g++-{newest}, then CXX=g++-{newest} CC=gcc-{newest}"


class _CrossCuda:
    native = False

    def cxx(self, host: Host, newest: int | None = None) -> Program | None:
        return next((found for found in host.gxx_aarch64 if _fits(found, newest)), None)

    def install(self, newest: int | None) -> str:
        version = "" if newest is None else f"-{newest}"
        return f"sudo apt-get install g++{version}-aarch64-linux-gnu"


class NvccNative:
    name = "nvcc-native"
    cuda: CudaCompiler = _NativeCuda()

    def lacks(self, host: Host, goal: Goal) -> str | None:
        if goal.cuda is None:
            return "the profile has no GPU"
        if host.arch != goal.arch:
            return f"compiles for {host.arch}, not for {goal.arch}"
        if host.cxx is None or host.cc is None:
            return f"no C++ compiler (g++) on PATH; `{self.cuda.install(None)}` installs one"
        return too_old(host.cc) or too_old(host.cxx)

    def pins(self, host: Host) -> tuple[Pin, ...]:
        return ()

    def identity(self, host: Host) -> dict[str, str]:
        names = {"cc": host.cc, "cxx": host.cxx}
        return {
            "name": self.name,
            **{key: found.identity for key, found in names.items() if found},
            "glibc": host.glibc,
        }

    def glibc(self, host: Host, goal: Goal) -> str:
        return newer_glibc(host.glibc, goal.glibc)  # linked against this machine's glibc

    def compiler(self, host: Host, goal: Goal, tools: Path | None, scratch: Path) -> Compiler:
        assert host.cc is not None
        return Compiler(shlex.quote(host.cc.path), gcc_flags(goal, host.cc), SEPARATE_CODE)


class NvccCross:
    name = "nvcc-cross"
    cuda: CudaCompiler = _CrossCuda()

    def lacks(self, host: Host, goal: Goal) -> str | None:
        if goal.cuda is None:
            return "the profile has no GPU"
        if goal.arch != "aarch64":
            return f"compiles for aarch64, not for {goal.arch}"
        cxx = self.cuda.cxx(host)
        if cxx is None:
            return f"no aarch64-linux-gnu-g++ on PATH; `{self.cuda.install(None)}` installs it"
        cc = host.gcc_of(cxx)
        if cc is None:
            return f"no gcc beside {cxx.path}; `{self.cuda.install(None)}` installs it"
        return too_old(cc) or too_old(cxx)

    def pins(self, host: Host) -> tuple[Pin, ...]:
        return ()

    def identity(self, host: Host) -> dict[str, str]:
        cxx = self.cuda.cxx(host)
        programs = {"cc": host.gcc_of(cxx), "cxx": cxx} if cxx else {}
        return {"name": self.name, **{key: found.identity for key, found in programs.items() if found}}

    def glibc(self, host: Host, goal: Goal) -> str:
        # Debian's cross glibc may be newer than the target's. The audit refuses symbols that are too new.
        return goal.glibc

    def compiler(self, host: Host, goal: Goal, tools: Path | None, scratch: Path) -> Compiler:
        cxx = self.cuda.cxx(host)
        assert cxx is not None
        cc = host.gcc_of(cxx)
        assert cc is not None
        return Compiler(shlex.quote(cc.path), gcc_flags(goal, cc), SEPARATE_CODE)


def _fits(program: Program, newest: int | None) -> bool:
    if newest is None or program.family != "gcc" or program.major is None:
        return True
    return program.major <= newest
