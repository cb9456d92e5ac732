"""Debian's and Ubuntu's cross gcc for aarch64."""

from __future__ import annotations

import shlex
from pathlib import Path

from mambaport.goal import Goal
from mambaport.host import Host
from mambaport.pins import Pin
from mambaport.toolchains.base import SEPARATE_CODE, Compiler, gcc_flags, newer_glibc, too_old


class GccAarch64:
    name = "gcc-aarch64"
    cuda = None

    def lacks(self, host: Host, goal: Goal) -> str | None:
        if goal.arch != "aarch64":
            return f"compiles for aarch64, not for {goal.arch}"
        if host.gcc_aarch64 is None:
            return (
                "no aarch64-linux-gnu-gcc on PATH; "
                "`sudo apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross` installs it"
            )
        return too_old(host.gcc_aarch64)

    def pins(self, host: Host) -> tuple[Pin, ...]:
        return ()

    def identity(self, host: Host) -> dict[str, str]:
        assert host.gcc_aarch64 is not None
        return {"name": self.name, "cc": host.gcc_aarch64.identity, "glibc": host.glibc}

    def glibc(self, host: Host, goal: Goal) -> str:
        return newer_glibc(host.glibc, goal.glibc)  # linked against this machine's glibc

    def compiler(self, host: Host, goal: Goal, tools: Path | None, scratch: Path) -> Compiler:
        assert host.gcc_aarch64 is not None
        return Compiler(shlex.quote(host.gcc_aarch64.path), gcc_flags(goal, host.gcc_aarch64), SEPARATE_CODE)
