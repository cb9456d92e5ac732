"""zig's C compiler, pinned, from the package index: any target, any glibc floor, no root rights."""

from __future__ import annotations

import shlex
from pathlib import Path

from mambaport import pins as pinned
from mambaport.boards import find_cpu
from mambaport.goal import Goal
from mambaport.host import Host
from mambaport.pins import Pin
from mambaport.toolchains.base import Compiler


class Zig:
    name = "zig"
    cuda = None

    def lacks(self, host: Host, goal: Goal) -> str | None:
        if pinned.zig().for_host(host.arch) is None:
            return f"pinned for x86_64 and aarch64 machines, not for {host.arch}"
        return None

    def pins(self, host: Host) -> tuple[Pin, ...]:
        pin = pinned.zig().for_host(host.arch)
        return (pin,) if pin else ()

    def identity(self, host: Host) -> dict[str, str]:
        # Without the digest of zig's wheel: one version of zig gives the same code on every host.
        return {"name": self.name, "zig": pinned.zig().version}

    def glibc(self, host: Host, goal: Goal) -> str:
        return goal.glibc

    def compiler(self, host: Host, goal: Goal, tools: Path | None, scratch: Path) -> Compiler:
        assert tools is not None
        cpu = find_cpu(goal.cpu, goal.arch).zig
        target = f"-target {goal.arch}-linux-gnu.{goal.glibc} -mcpu={cpu}"
        caches = (("ZIG_GLOBAL_CACHE_DIR", "zig-global"), ("ZIG_LOCAL_CACHE_DIR", "zig-local"))
        return Compiler(
            cc=f"{shlex.quote(str(tools / 'ziglang' / 'zig'))} cc {target}",
            cflags="",
            environment=tuple((name, str(scratch / folder)) for name, folder in caches),
        )
