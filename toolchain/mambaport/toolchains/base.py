"""What every toolchain gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mambaport.host import Host
from mambaport.pins import Pin


@dataclass(frozen=True)
class CudaGoal:
    """The CUDA side of a goal: which GPUs, and the torch that the extensions are tied to."""

    version: str
    """CUDA of the target, ``12.6``; a wheel needs its major version."""
    sm: tuple[str, ...]
    """``("87",)``: one cubin each, and no others."""
    ptx: tuple[str, ...]
    """Architectures whose PTX is in the wheel too."""
    flavour: str
    """``l4t``, ``sbsa`` or ``desktop``."""
    torch: str
    """torch's minor, ``2.5``."""

    @property
    def major(self) -> int:
        return int(self.version.split(".", maxsplit=1)[0])


@dataclass(frozen=True)
class Goal:
    """What to compile for: the profile's target with ``host`` resolved."""

    arch: str
    glibc: str
    """The newest glibc whose symbols may be used."""
    cpu: str
    cuda: CudaGoal | None = None

    @property
    def platform_tag(self) -> str:
        return f"linux_{self.arch}"


@dataclass(frozen=True)
class Compiler:
    """How a package's build calls the C compiler."""

    cc: str
    """One or several words."""
    cflags: str
    environment: tuple[tuple[str, str], ...] = ()


class Toolchain(Protocol):
    """A C compiler for a target."""

    @property
    def name(self) -> str:
        """As profiles and ``--toolchain`` call it."""

    def lacks(self, host: Host, goal: Goal) -> str | None:
        """Why it cannot do the work on this machine, with the hint; None when it can."""

    def pins(self, host: Host) -> tuple[Pin, ...]:
        """What must be fetched for it."""

    def identity(self, host: Host) -> dict[str, str]:
        """What decides its output: part of the build key and of the provenance."""

    def glibc(self, host: Host, goal: Goal) -> str:
        """The newest glibc that its output may need: the target's, or its own if it cannot choose."""

    def compiler(self, host: Host, goal: Goal, tools: Path | None, scratch: Path) -> Compiler:
        """How to call it. ``tools`` is where its pins are unpacked; ``scratch`` takes caches."""


def gcc_flags(goal: Goal) -> str:
    """The flags that keep gcc at or below the target's CPU."""
    if goal.arch == "aarch64":
        return "-march=armv8-a" if goal.cpu == "generic" else f"-mcpu={goal.cpu}"
    return "-march=x86-64" if goal.cpu == "generic" else f"-march={goal.cpu}"


def newer_glibc(one: str, other: str) -> str:
    """The newer of two versions such as ``2.28`` and ``2.36``."""
    return max(one, other, key=lambda text: [int(part) for part in text.split(".")])
