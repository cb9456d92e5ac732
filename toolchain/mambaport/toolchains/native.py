"""This machine's C compiler, for this machine's architecture."""

from __future__ import annotations

import shlex
from pathlib import Path

from mambaport.goal import Goal
from mambaport.host import Host
from mambaport.pins import Pin
from mambaport.toolchains.base import SEPARATE_CODE, Compiler, gcc_flags, newer_glibc, too_old


class Native:
    name = "native"
    cuda = None

    def lacks(self, host: Host, goal: Goal) -> str | None:
        if host.arch != goal.arch:
            return f"compiles for {host.arch}, not for {goal.arch}"
        if host.cc is None:
            return "no C compiler (cc) on PATH; `sudo apt-get install gcc libc6-dev` installs one"
        return too_old(host.cc)

    def pins(self, host: Host) -> tuple[Pin, ...]:
        return ()

    def identity(self, host: Host) -> dict[str, str]:
        compiler = {"cc": host.cc.identity} if host.cc else {}
        return {"name": self.name, **compiler, "glibc": host.glibc}

    def glibc(self, host: Host, goal: Goal) -> str:
        return newer_glibc(host.glibc, goal.glibc)  # linked against this machine's glibc

    def compiler(self, host: Host, goal: Goal, tools: Path | None, scratch: Path) -> Compiler:
        assert host.cc is not None
        return Compiler(shlex.quote(host.cc.path), gcc_flags(goal, host.cc), SEPARATE_CODE)
