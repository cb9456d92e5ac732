"""nvcc with a host compiler: the machine's own, or Debian's cross g++ for aarch64.

The C kernels of the same wheel are compiled by the gcc that belongs to that g++. Which nvcc it is, and which
torch and Python it compiles for, the plan works out (:mod:`mambaport.cuda.resolve`).
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

from mambaport.host import Host, Program
from mambaport.pins import Pin
from mambaport.toolchains.base import Compiler, Goal, gcc_flags, newer_glibc


class NvccNative:
    name = "nvcc-native"

    def lacks(self, host: Host, goal: Goal) -> str | None:
        if goal.cuda is None:
            return "the profile has no GPU"
        if host.arch != goal.arch:
            return f"it compiles for {host.arch}, not for {goal.arch}"
        if self.cxx(host) is None or host.cc is None:
            return "no C++ compiler (g++) on PATH; `sudo apt-get install g++` brings one"
        return None

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
        return newer_glibc(host.glibc, goal.glibc)  # it links against the glibc that is here

    def compiler(self, host: Host, goal: Goal, tools: Path | None, scratch: Path) -> Compiler:
        assert host.cc is not None
        return Compiler(shlex.quote(host.cc.path), gcc_flags(goal))

    def cxx(self, host: Host, newest: int | None = None) -> Program | None:
        """The C++ compiler, for an nvcc that accepts gcc up to ``newest``."""
        return host.cxx if host.cxx and _fits(host.cxx, newest) else None


class NvccCross:
    name = "nvcc-cross"

    def lacks(self, host: Host, goal: Goal) -> str | None:
        if goal.cuda is None:
            return "the profile has no GPU"
        if goal.arch != "aarch64":
            return f"it compiles for aarch64, not for {goal.arch}"
        if self.cxx(host) is None:
            return "no aarch64-linux-gnu-g++ on PATH; `sudo apt-get install g++-aarch64-linux-gnu` brings it"
        return None

    def pins(self, host: Host) -> tuple[Pin, ...]:
        return ()

    def identity(self, host: Host) -> dict[str, str]:
        cxx = self.cxx(host)
        return {"name": self.name, **({"cxx": cxx.identity} if cxx else {})}

    def glibc(self, host: Host, goal: Goal) -> str:
        # Debian's cross glibc may be newer; the audit holds what was used of it against the target's.
        return goal.glibc

    def compiler(self, host: Host, goal: Goal, tools: Path | None, scratch: Path) -> Compiler:
        cxx = self.cxx(host)
        assert cxx is not None
        gcc = Path(cxx.path).name.replace("g++", "gcc")
        return Compiler(shlex.quote(shutil.which(gcc) or gcc), gcc_flags(goal))

    def cxx(self, host: Host, newest: int | None = None) -> Program | None:
        """The C++ compiler, for an nvcc that accepts gcc up to ``newest``."""
        return next((found for found in host.gxx_aarch64 if _fits(found, newest)), None)


def gcc_major(program: Program) -> int | None:
    """The major version of a g++; None for another compiler."""
    said = re.search(r"(?:g\+\+|gcc|c\+\+)\S* .*?(\d+)\.\d+\.\d+$", program.version)
    return int(said[1]) if said else None


def _fits(program: Program, newest: int | None) -> bool:
    major = gcc_major(program)
    return newest is None or major is None or major <= newest
