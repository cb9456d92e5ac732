"""The toolchains, which compile the packages: one module each, all behind one Protocol."""

from __future__ import annotations

from mambaport.errors import HostError
from mambaport.goal import Goal
from mambaport.host import Host
from mambaport.profile import Profile
from mambaport.toolchains.base import Compiler, CudaCompiler, Toolchain
from mambaport.toolchains.gcc import GccAarch64
from mambaport.toolchains.native import Native
from mambaport.toolchains.nvcc import NvccCross, NvccNative
from mambaport.toolchains.zig import Zig

TOOLCHAINS: dict[str, Toolchain] = {
    tool.name: tool for tool in (Native(), Zig(), GccAarch64(), NvccNative(), NvccCross())
}

__all__ = ["TOOLCHAINS", "Compiler", "CudaCompiler", "Toolchain", "choose"]


def choose(profile: Profile, host: Host, goal: Goal, requested: str | None = None) -> Toolchain:
    """The toolchain requested, or the first of the profile's toolchains that this machine can use.

    Raises:
        HostError: no toolchain can be used; the message gives the reason for each.
    """
    names = (requested,) if requested else profile.build.toolchains
    reasons = []
    for name in names:
        tool = TOOLCHAINS[name]
        lack = tool.lacks(host, goal)
        if lack is None:
            return tool
        reasons.append(f"{name}: {lack}")
    raise HostError(
        f"No toolchain here compiles for {goal.arch}",
        found="\n".join(reasons),
        expected=f"a toolchain that runs on {host.arch} and compiles for {goal.arch}",
        hint="drop --toolchain to let mambaport choose"
        if requested
        else "install what is named above; `mambaport doctor` shows it with the commands",
    )
