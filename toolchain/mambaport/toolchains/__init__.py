"""With what the packages are compiled. One module per toolchain, all behind one Protocol."""

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


def choose(profile: Profile, host: Host, goal: Goal, asked: str | None = None) -> Toolchain:
    """The toolchain asked for, or the first of the profile's that can do the work on this machine.

    Raises:
        HostError: none can; the message gives each one's reason and the hint.
    """
    names = (asked,) if asked else profile.build.toolchains
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
        expected=f"one that runs on {host.arch} and compiles for {goal.arch}",
        hint="drop --toolchain to let mambaport choose"
        if asked
        else "install what is named above; `mambaport doctor` shows it with the commands",
    )
