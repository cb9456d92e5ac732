"""Compiled files in a wheel: architecture, loading, the glibc they need, the libraries they name."""

from __future__ import annotations

import posixpath
import re
import zipfile
from dataclasses import dataclass
from functools import cached_property

from mambaport.auditing.findings import Finding, judge
from mambaport.auditing.image import DT_NEEDED, DT_RPATH, DT_RUNPATH, MACHINES, Image, image_faults
from mambaport.goal import Goal
from mambaport.report import counted
from mambaport.wheels import Wheel

# What every glibc system has. Anything else would have to be in the wheel, or is not on the device.
SYSTEM_LIBRARIES = re.compile(
    r"(libc|libm|libdl|librt|libpthread)\.so\.[0-9]+|libgcc_s\.so\.1|ld-linux-(aarch64\.so\.1|x86-64\.so\.2)"
)
# What an extension of torch takes from torch and from CUDA, which are on the device already.
GPU_LIBRARIES = re.compile(
    r"lib(c10|c10_cuda|torch|torch_cpu|torch_cuda)\.so|libcudart\.so\.[0-9]+|libstdc\+\+\.so\.6"
)
_GLIBC = re.compile(r"GLIBC_(\d+)\.(\d+)")
_PACKED_RELOCATIONS = (2, 36)  # the first glibc that loads them


@dataclass(frozen=True)
class Library:
    """One ELF file of a wheel. Its parts are read on first use, and raise ValueError when damaged."""

    name: str
    content: bytes

    @cached_property
    def image(self) -> Image:
        return Image(self.content)

    @property
    def arch(self) -> str:
        return self.image.arch

    @cached_property
    def needed(self) -> list[str]:
        return self.image.strings(DT_NEEDED)

    @cached_property
    def run_paths(self) -> list[str]:
        return self.image.strings(DT_RPATH) + self.image.strings(DT_RUNPATH)

    @cached_property
    def has_gpu_code(self) -> bool:
        return self.image.section(".nv_fatbin") is not None

    @cached_property
    def versions(self) -> list[str]:
        """The symbol versions that it needs of other libraries: ``GLIBC_2.17``, ``GLIBCXX_3.4.21``."""
        return list(self.image.versions.values())

    @cached_property
    def glibc(self) -> tuple[int, int]:
        """The newest glibc that it needs a symbol of."""
        newest = (0, 0)
        for name in self.versions:
            if name == "GLIBC_ABI_DT_RELR":
                newest = max(newest, _PACKED_RELOCATIONS)
            elif match := _GLIBC.fullmatch(name):
                newest = max(newest, (int(match[1]), int(match[2])))
        return newest

    @property
    def undefined(self) -> frozenset[str]:
        """The symbols that it must be given by a library without symbol versions; optional ones left out."""
        return self.image.undefined

    def section(self, name: str) -> bytes | None:
        return self.image.section(name)


def read_libraries(archive: zipfile.ZipFile) -> list[Library]:
    """Every ELF file in a wheel, whatever it is called."""
    libraries = []
    for item in archive.infolist():
        if item.is_dir():
            continue
        with archive.open(item) as stream:
            if stream.read(4) != b"\x7fELF":
                continue
        libraries.append(Library(item.filename, archive.read(item)))
    return libraries


def elf_findings(wheel: Wheel, libraries: list[Library], goal: Goal | None) -> list[Finding]:
    """Findings on architecture, glibc and needed libraries.

    Raises:
        ValueError: a compiled file cannot be read.
    """
    platform = wheel.tag.rsplit("-", 1)[1]
    return [
        _architecture(libraries, platform, goal),
        _loading(libraries),
        _glibc(libraries, goal),
        _needed(libraries),
    ]


def _architecture(libraries: list[Library], platform: str, goal: Goal | None) -> Finding:
    tagged = (
        "any" if platform == "any" else next((a for a in MACHINES.values() if platform.endswith(a)), platform)
    )
    expected = f"compiled files for {tagged}, as the tag {platform} says"
    faults = [f"{item.name} is for {item.arch}" for item in libraries if item.arch != tagged]
    # The platform part of a name such as x.cpython-310-x86_64-linux-gnu.so is what Python looks for.
    faults += [
        f"{item.name} is named for {arch}"
        for item in libraries
        for arch in ("x86_64", "aarch64")
        if f"-{arch}-linux-gnu" in item.name and arch != tagged
    ]
    if tagged != "any" and not libraries:
        faults.append(f"nothing compiled is inside, although the tag is {platform}")
    if goal is not None and tagged not in ("any", goal.arch):
        faults.append(f"the wheel is for {tagged}, the profile for {goal.arch}")
        expected = f"a wheel for {goal.arch}"
    names = ", ".join(item.name.rsplit("/", 1)[-1] for item in libraries)
    return judge(
        "arch", faults, f"{tagged}: {names}" if names else "nothing compiled, runs anywhere", expected
    )


def _loading(libraries: list[Library]) -> Finding:
    # C++ runs a constructor for each file with static objects, and CUDA registers its kernels in others.
    faults = [
        f"{item.name} {fault}"
        for item in libraries
        for fault in image_faults(item.image, None if item.has_gpu_code else 1)
    ]
    found = (
        f"{counted(len(libraries), 'shared library', 'shared libraries')}, code apart from data"
        if libraries
        else "nothing to load"
    )
    expected = "shared libraries whose code is read-only, apart from data, and where its headers say"
    return judge("loading", faults, found, expected)


def _glibc(libraries: list[Library], goal: Goal | None) -> Finding:
    newest = max((item.glibc for item in libraries), default=(0, 0))
    needs = f"needs glibc {newest[0]}.{newest[1]}" if newest > (0, 0) else "needs no particular glibc"
    if goal is None:
        return Finding("glibc", "pass", needs)
    floor = tuple(int(part) for part in goal.glibc.split("."))
    faults = [
        f"{item.name} needs glibc {item.glibc[0]}.{item.glibc[1]}" for item in libraries if item.glibc > floor
    ]
    return judge(
        "glibc", faults, f"{needs}, target has {goal.glibc}", f"nothing newer than glibc {goal.glibc}"
    )


def _needed(libraries: list[Library]) -> Finding:
    def allowed(item: Library, name: str) -> bool:
        return bool(SYSTEM_LIBRARIES.fullmatch(name) or (item.has_gpu_code and GPU_LIBRARIES.fullmatch(name)))

    inside = {item.name.rsplit("/", 1)[-1] for item in libraries}
    faults = [
        f"{item.name} needs {name}"
        for item in libraries
        for name in item.needed
        if name not in inside and not allowed(item, name)
    ]
    # The symbols of the system's libraries have versions. cuda.py reads those of torch, which have none.
    faults += [
        f"{item.name} needs the symbol {name}, which no library has"
        for item in libraries
        if all(SYSTEM_LIBRARIES.fullmatch(name) for name in item.needed)
        for name in sorted(item.undefined)
    ]
    faults += [
        f"{item.name} looks for libraries in {path}"
        for item in libraries
        for paths in item.run_paths
        for path in paths.split(":")
        if not _inside_site_packages(item.name, path)
    ]
    needed = sorted({name for item in libraries for name in item.needed})
    expected = "libraries that every glibc system has, and for CUDA extensions torch's and CUDA's"
    return judge("needed", faults, ", ".join(needed) or "nothing", expected)


def _inside_site_packages(name: str, path: str) -> bool:
    """Whether a search path of the wheel's library ``name`` stays where wheels are installed."""
    first, _, rest = path.partition("/")
    if first != "$ORIGIN" or "$" in rest:
        return False
    return not posixpath.normpath(posixpath.join(posixpath.dirname(name), rest)).startswith("..")
