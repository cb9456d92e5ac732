"""The platform tag that a wheel has earned: manylinux where auditwheel and our reading of it agree."""

from __future__ import annotations

import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.construct.core import ConstructError

from mambaport.auditing.elf import Library, read_libraries
from mambaport.auditing.findings import Finding, judge
from mambaport.wheels import Wheel

_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_(\w+)")
# What pyelftools and auditwheel raise for ELF files that are damaged where our reading does not look.
_UNREADABLE_ELF = (
    *(ELFError, ConstructError, struct.error, ValueError, RuntimeError, LookupError, ArithmeticError),
    *(AssertionError, AttributeError, TypeError, MemoryError),
)
_ALIASES = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


@dataclass(frozen=True)
class Platform:
    """For which systems a wheel is."""

    tag: str
    """``any``, ``manylinux_2_17_aarch64`` or ``linux_aarch64``."""
    glibc: tuple[int, int] | None
    """N of a manylinux tag."""
    reason: str
    """Why it is no better."""


def tag_of(path: Path) -> str:
    """The platform tag for a wheel file, by what is in it.

    Raises:
        ValueError: a compiled file cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        return platform_of(path, read_libraries(archive)).tag


def platform_of(path: Path, libraries: list[Library]) -> Platform:
    """The same, with N and the reason.

    Raises:
        ValueError: a compiled file cannot be read.
    """
    if not libraries:
        return Platform("any", None, "nothing compiled")
    arch = libraries[0].arch
    local = f"linux_{arch}"
    policy, reason = _policy(path, arch)
    if policy is None:
        return Platform(local, None, reason)
    needed = max(policy, *(item.glibc for item in libraries))
    return Platform(f"manylinux_{needed[0]}_{needed[1]}_{arch}", needed, "")


def _policy(path: Path, arch: str) -> tuple[tuple[int, int] | None, str]:
    """auditwheel's verdict: the glibc of its best policy, or the reason for none."""
    # Imported here: only wheels with compiled files need it.
    from auditwheel.architecture import Architecture  # noqa: PLC0415
    from auditwheel.error import AuditwheelError  # noqa: PLC0415
    from auditwheel.libc import Libc  # noqa: PLC0415
    from auditwheel.wheel_abi import analyze_wheel_abi  # noqa: PLC0415

    try:
        info = analyze_wheel_abi(
            Libc.GLIBC,
            Architecture(arch),
            path,
            frozenset(),
            disable_isa_ext_check=True,  # the audit's own rule looks at every instruction
            allow_graft=False,
            args_ldpaths="",  # nothing of this machine
        )
    except (AuditwheelError, *_UNREADABLE_ELF) as fault:
        return None, f"auditwheel cannot read it ({type(fault).__name__}: {fault})"
    match = _MANYLINUX.fullmatch(info.overall_policy.name)
    if match:
        return (int(match[1]), int(match[2])), ""
    best = info.external_refs[info.policies.highest.name]
    outside = sorted(best.libs) + sorted(best.blacklist)
    if outside:
        return None, f"needs {', '.join(outside)}, which a manylinux system need not have"
    return None, "needs newer symbols than any manylinux policy has"


def platform_finding(wheel: Wheel, libraries: list[Library]) -> Finding:
    """Whether the wheel's platform tag promises no more than what was proven.

    Raises:
        ValueError: a compiled file cannot be read.
    """
    tagged = wheel.tag.rsplit("-", 1)[1]
    proven = platform_of(wheel.path, libraries)
    faults = []
    for part in tagged.split("."):
        if part == "any" or part.startswith("linux_"):
            continue
        match = _MANYLINUX.fullmatch(part)
        name = part.partition("_")[0]
        promised = (int(match[1]), int(match[2])) if match else _ALIASES.get(name)
        if promised is None:
            faults.append(f"the tag {part} is for no glibc system")
        elif proven.glibc is None or proven.glibc > promised:
            faults.append(
                f"the tag {part} promises glibc {promised[0]}.{promised[1]}, proven is {proven.tag}"
            )
    better = tagged != proven.tag and proven.glibc is not None
    found = tagged + (
        f", proven is {proven.tag}" if better else f": {proven.reason}" if proven.reason else ""
    )
    return judge("platform", faults, found, f"{proven.tag}" + (f": {proven.reason}" if proven.reason else ""))
